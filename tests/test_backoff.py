from itertools import islice

from lncis.backoff import backoff


def test_the_last_pause_comes_again_and_again():
    assert list(islice(backoff((1.0, 2.0, 5.0)), 6)) == [1.0, 2.0, 5.0, 5.0, 5.0, 5.0]
