"""The course of a study on simulated workers: real queue, journal, sampler and stages; the training is made up."""

import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from simulated import GAMMAS, LR, METRIC, Session, made_up, study

from lncis.execution.tasks import Task
from lncis.studies.record import journal as journals
from lncis.studies.record.journal import End, EpochFinished, TrialEnded, TrialRetried
from lncis.studies.search import Suggester
from lncis.studies.stages.store import StageStore
from lncis.studies.stages.tree import StageTree

E1 = {"type": "int", "low": 1, "high": 4}
ASHA = {"type": "asha"}
MEDIAN = {"type": "median", "startup_configurations": 2}


pytestmark = pytest.mark.usefixtures("journal_in_memory_of_the_disk")


def test_a_grid_is_trained_with_every_seed_after_its_baselines(tmp_path):
    spec = study(seeds=[0, 3], baselines={"ce": {"loss.type": "cross_entropy"}})
    session = Session(spec, tmp_path / "s", worker_groups=2).run()
    assert list(session.ends) == [f"{c:04d}-seed{s}" for c in range(4) for s in (0, 3)]
    assert set(session.ends.values()) == {End.FINISHED}
    assert session.trials.unfinished == 0
    assert session.trials.start_next() is None
    assert session.trained.total() == 2 * 2 + 8 * 4, "stage 1 once a seed"
    assert set(session.trained.values()) == {1}
    for result in session.result.trials:
        assert [r["epoch"] for r in result.records] == [1, 2, 3, 4, 5, 6]
        assert result.records[-1] == made_up(result.trial.config, 6)


def test_noise_draws_are_crossed_with_seeds(tmp_path):
    session = Session(study(seeds=[0, 1], noise_seeds=[5, 6]), tmp_path / "s").run()
    drawn = {(t.trial.config.seed, t.trial.config.noise.seed) for t in session.result.trials}
    assert drawn == {(0, 5), (1, 5), (0, 6), (1, 6)}
    assert len(session.ends) == 12


def test_each_event_is_in_the_journal_before_anything_follows_from_it(tmp_path):
    session = Session(study(seeds=[0, 1]), tmp_path / "s").run()
    assert journals.read(tmp_path / "s") == session.journal.events
    seen = Counter((type(e).__name__, getattr(e, "trial", "")) for e in session.journal.events)
    assert all(seen["TrialStarted", name] == seen["TrialEnded", name] == 1 for name in session.ends)
    assert all(seen["EpochFinished", name] == 6 for name in session.ends)


@pytest.mark.parametrize("pruner", [ASHA, {**ASHA, "first_rung": 2}, MEDIAN], ids=str)
@pytest.mark.parametrize("worker_groups", [1, 2])
def test_pruning_takes_whole_configurations_at_rungs_behind_stage_1(tmp_path, pruner, worker_groups):
    spec = study(
        search={"loss.gamma": {"type": "float", "low": 1, "high": 9}, "optimizer.lr": LR},
        sampler={"type": "random", "configurations": 10},
        pruner=pruner,
        seeds=[0, 1, 2],
        baselines={"ce": {"loss.type": "cross_entropy"}},
    )
    session = Session(spec, tmp_path / "s", worker_groups=worker_groups).run()
    by_configuration: dict[int, list] = {}
    for t in session.result.trials:
        by_configuration.setdefault(t.trial.configuration, []).append(t)
    assert {t.end for t in by_configuration.pop(0)} == {End.FINISHED}, "a baseline is never pruned"
    for trials in by_configuration.values():
        assert len(trials) == 3
        assert len({t.end for t in trials}) == 1
        if trials[0].end is End.PRUNED:
            assert len({len(t.records) for t in trials}) == 1, "all had reached the rung, and went no further"
            assert len(trials[0].records) in StageTree(spec, Path()).rungs
            assert len(trials[0].records) > 2, "it was in stage 1"
            assert f"after epoch {len(trials[0].records)}" in trials[0].reason
    ends = Counter(session.ends.values())
    assert ends[End.PRUNED] > 0
    assert ends[End.FINISHED] > 3
    assert session.trials.unfinished == 0


def test_asha_ends_what_a_second_derivation_ends(tmp_path):
    """One worker group and one seed: configurations come one after another, each against those before it."""
    spec = study(
        search={"loss.gamma": {"type": "float", "low": 1, "high": 99}},
        sampler={"type": "random", "configurations": 12},
        pruner=ASHA,
    )
    assert StageTree(spec, Path()).rungs == (3, 4)
    session = Session(spec, tmp_path / "s").run()
    reached: dict[int, list[float]] = {3: [], 4: []}
    for t in session.result.trials:
        expected, at = End.FINISHED, 6
        for rung in (3, 4):
            reached[rung].append(made_up(t.trial.config, rung)[METRIC])
            best = sorted(reached[rung], reverse=True)[: max(len(reached[rung]) // 2, 1)]
            if reached[rung][-1] not in best:
                expected, at = End.PRUNED, rung
                break
        assert (t.end, len(t.records)) == (expected, at)


def test_a_configuration_is_not_judged_before_all_its_seeds_reached_the_rung(tmp_path):
    spec = study(sampler={"type": "random", "configurations": 6}, pruner=ASHA, seeds=[0, 1, 2])
    session = Session(spec, tmp_path / "s", worker_groups=2).run()
    reached: dict[str, float] = {}
    for event in session.journal.events:
        if isinstance(event, EpochFinished):
            reached[event.trial] = event.record["epoch"]
            configuration = event.trial[:4]
            others = [reached.get(f"{configuration}-seed{s}", 0) for s in (0, 1, 2)]
            for rung in StageTree(spec, Path()).rungs:
                assert max(others) <= rung or min(others) >= rung, "one went on before the others were there"


def test_a_failed_trial_is_noted_and_the_others_go_on(tmp_path):
    def diverges(config):
        return 4 if config.loss.gamma == 6.0 and config.seed == 1 else None

    session = Session(study(seeds=[0, 1]), tmp_path / "s", diverges=diverges, worker_groups=2).run()
    assert {name for name, end in session.ends.items() if end is End.FAILED} == {"0001-seed1"}
    assert Counter(session.ends.values()) == {End.FINISHED: 5, End.FAILED: 1}
    (failed,) = [e for e in session.journal.events if isinstance(e, TrialEnded) and e.reason]
    assert failed.reason == "the loss is nan"
    assert session.epochs_of("0001-seed1") == 3


def test_where_one_seed_failed_the_others_are_judged_without_it(tmp_path):
    def diverges(config):
        return 3 if config.seed == 1 else None

    spec = study(sampler={"type": "random", "configurations": 6}, pruner=ASHA, seeds=[0, 1])
    ends = Session(spec, tmp_path / "s", diverges=diverges).run().ends
    assert {end for name, end in ends.items() if name.endswith("seed1")} == {End.FAILED}
    assert {end for name, end in ends.items() if name.endswith("seed0")} == {End.FINISHED, End.PRUNED}


@pytest.mark.parametrize("pruner", [{"type": "none"}, ASHA, MEDIAN], ids=lambda pruner: pruner["type"])
@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_failed_trials_are_tried_again_when_asked_for_and_only_then(tmp_path, pruner, seeds):
    spec = study(
        search={"optimizer.lr": LR},
        sampler={"type": "tpe", "configurations": 5},
        pruner=pruner,
        seeds=seeds,
    )

    def out_of_memory(config):
        return 3 if config.seed == seeds[-1] else None

    first = Session(spec, tmp_path / "s", diverges=out_of_memory).run()
    failed = {name for name, end in first.ends.items() if end is End.FAILED}
    assert failed
    again = Session(spec, tmp_path / "s").run()
    assert again.submitted == []
    assert again.ends == first.ends
    retried = Session(spec, tmp_path / "s", retry_failed=True).run()
    pruned = {name[:4] for name, end in first.ends.items() if end is End.PRUNED}
    assert {owner for owner, _ in retried.submitted} == {name for name in failed if name[:4] not in pruned}
    assert all(retried.ends[name] is not End.FAILED for name in failed if name[:4] not in pruned)
    assert retried.trials.unfinished == 0
    events = journals.read(tmp_path / "s")
    assert {e.trial for e in events if isinstance(e, TrialRetried)} == {n for n in failed if n[:4] not in pruned}
    replayed = Session(spec, tmp_path / "s", retry_failed=False).run()
    assert replayed.outcome == retried.outcome


def test_a_configuration_that_does_not_validate_is_left_out_and_the_count_ends(tmp_path):
    spec = study(
        search={
            "schedule.epochs": {"type": "categorical", "choices": [4, 6]},
            "schedule.stage1_epochs": {"type": "categorical", "choices": [2, 3, 5]},
        },
        base={"schedule": {"epochs": 6, "stage1_epochs": 2}},
        sampler={"type": "random", "configurations": 12},
        seeds=[0, 1],
    )
    session = Session(spec, tmp_path / "s").run()
    drawn = [o for _, o in iter(Suggester(spec).ask, None)]
    misfits = sum(o["schedule.stage1_epochs"] >= o["schedule.epochs"] for o in drawn)
    assert misfits > 0
    assert len(session.notes) == misfits
    assert "epochs = 4, stage1_epochs = 5 was drawn and left out: schedule: stage1_epochs must be" in session.notes[0]
    assert len(session.ends) == 2 * (12 - misfits)
    assert session.trials.unfinished == 0
    assert session.trials.start_next() is None


class FoundAtOnce:
    """A store in which others find a stage as soon as it is trained, as at a URL."""

    def publish(self, task: Task) -> None: ...

    def reuse(self, task: Task) -> bool:
        return Session._checkpoint(replace(task, after=None)) == task.until


def test_what_a_study_trained_itself_it_does_not_reuse(tmp_path):
    plain = Session(study(seeds=[0, 1]), tmp_path / "plain").run().result.cost
    Session(study(seeds=[0, 1]), tmp_path / "s", store=FoundAtOnce()).run(epochs=5)
    cost = Session(study(seeds=[0, 1]), tmp_path / "s", store=FoundAtOnce()).run().result.cost
    assert (cost.trained, cost.shared, cost.reused) == (plain.trained, plain.shared, 0)


def test_stages_are_reused_from_the_store_by_every_trial_that_shares_them(tmp_path):
    store = StageStore(tmp_path / "store", 1e9)
    first = Session(study(seeds=[0, 1]), tmp_path / "first", store=store).run()
    assert first.trained.total() == 2 * (2 + 3 * 4)
    more = {"loss.gamma": {**GAMMAS, "choices": [4.0, 5.0, 7.0]}}
    second = Session(study(seeds=[0, 1], search=more), tmp_path / "second", store=store).run()
    assert second.trained.total() == 2 * 2 * 4, "gamma = 4 is there whole, the others lack stage 2"
    cost = second.result.cost
    assert (cost.requested, cost.trained) == (36, 16)
    assert cost.reused == 2 * (2 + 4), "stage 1 and gamma = 4, for each seed"
    assert cost.shared == 36 - 16 - 12
    assert cost.training_seconds == 16
    for result in second.result.trials:
        assert [r["epoch"] for r in result.records] == [1, 2, 3, 4, 5, 6]


def test_what_the_reused_stage_came_from_is_not_trained_for_those_who_share_it(tmp_path):
    base = {"schedule": {"epochs": 6, "stage1_epochs": 4}}
    store = StageStore(tmp_path / "store", 1e9)
    Session(
        study(base=base, search={"loss.gamma": {**GAMMAS, "choices": [9.0]}}), tmp_path / "first", store=store
    ).run()
    early = {
        "optimizer.lr": 1e-4,
        "schedule.stage1_epochs": 3,
    }  # for its sake stage 1 is cut at 3, which nobody trained
    second = Session(study(base=base, baselines={"early": early}), tmp_path / "second", store=store).run()
    assert second.trained.total() == 6 + 3 * 2
    cost = second.result.cost
    assert (cost.trained, cost.reused, cost.shared) == (12, 4, 24 - 12 - 4)


def test_a_pruned_trial_whose_stages_were_all_reused_is_judged_at_each_rung_it_passed(tmp_path):
    spec = study(search={"loss.gamma": {**GAMMAS, "choices": [9.0, 1.0]}}, pruner={**ASHA, "reduction_factor": 3})
    store = StageStore(tmp_path / "store", 1e9)
    first = Session(spec, tmp_path / "first", store=store).run()
    second = Session(spec, tmp_path / "second", store=store).run()
    assert second.outcome == first.outcome
    assert second.trained.total() == 0


def test_resumed_trials_pruned_before_their_turn_are_not_trained(tmp_path):
    """Seed 1 stands at the rung already; seed 0 gets there in the second session, and both are behind."""
    spec = study(search={"loss.gamma": {**GAMMAS, "choices": [9.0, 1.0]}}, pruner=ASHA, seeds=[0, 1, 2])
    whole = Session(spec, tmp_path / "s").run()
    assert {end for name, end in whole.ends.items() if name.startswith("0001")} == {End.PRUNED}
    path = tmp_path / "s" / journals.JOURNAL
    lines = path.read_text().splitlines(keepends=True)
    events = whole.journal.events
    # the last epoch before the judgement
    last = max(i for i, e in enumerate(events) if isinstance(e, EpochFinished) and e.trial.startswith("0001"))
    path.write_text("".join(lines[:last]))
    resumed = Session(spec, tmp_path / "s")
    started = []
    while (trial := resumed.trials.start_next()) and len(started) < 10:
        started.append(trial.name)
        if trial.name == "0001-seed0":
            break
    owner = events[last].trial
    resumed.trials.epoch_finished(owner, events[last].record)
    assert resumed.ends == whole.ends
    assert resumed.trials.start_next() is None
    resumed.journal.close()


TPE = {"type": "tpe", "configurations": 13}
MIXED = {
    "loss.type": {"type": "categorical", "choices": ["lncis", "cross_entropy"]},
    "loss.gamma": {"type": "float", "low": 1, "high": 9, "when": {"loss.type": "lncis"}},
    "optimizer.lr": LR,
    "schedule.stage1_epochs": E1,
}
STUDIES = {
    "grid": {"seeds": [0, 1]},
    "grid, baseline, asha": {"seeds": [0, 1], "pruner": ASHA, "baselines": {"ce": {"loss.type": "cross_entropy"}}},
    "grid, median": {"seeds": [0, 1], "pruner": {**MEDIAN, "startup_configurations": 1}},
    "random": {"search": MIXED, "sampler": {**TPE, "type": "random"}},
    "random, asha": {"search": MIXED, "sampler": {**TPE, "type": "random"}, "pruner": ASHA, "seeds": [0, 1]},
    "tpe": {"search": MIXED, "sampler": TPE},
    "tpe, asha": {"search": MIXED, "sampler": TPE, "pruner": ASHA},
    "tpe, asha, seeds": {"search": MIXED, "sampler": TPE, "pruner": ASHA, "seeds": [0, 1]},
    "tpe, median": {"search": MIXED, "sampler": TPE, "pruner": MEDIAN},
    "tpe, alone, asha": {"search": MIXED, "sampler": TPE, "pruner": ASHA, "sharing": False},
    "tpe, misfits": {
        "search": {**MIXED, "schedule.epochs": {"type": "categorical", "choices": [4, 6]}},
        "sampler": TPE,
    },
}


def sometimes_diverges(config):
    return 4 if random.Random(f"{config.optimizer.lr} {config.seed}").random() < 0.1 else None


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where the system has such: thousands of small files come and go."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_killed_at_any_byte_ends_as_an_undisturbed_one(memory, name):
    spec = study(**STUDIES[name])
    undisturbed = Session(spec, memory / "undisturbed", diverges=sometimes_diverges).run().outcome
    whole = (memory / "undisturbed" / journals.JOURNAL).read_bytes()
    draw = random.Random(name)
    for number in range(18):
        folder = memory / f"killed {number}"
        folder.mkdir()
        for _ in range(draw.choice([1, 1, 2])):  # some are killed again
            path = folder / journals.JOURNAL
            if not path.exists():
                path.write_bytes(whole)
            path.write_bytes(path.read_bytes()[: draw.randrange(len(path.read_bytes()))])
            finished = {e.trial for e in journals.read(folder) if isinstance(e, TrialEnded)}
            session = Session(spec, folder, diverges=sometimes_diverges).run()
            assert not finished & {owner for owner, _ in session.submitted}, "it was run again"
        assert session.outcome == undisturbed, f"cut {number}"
        assert session.trials.unfinished == 0
        assert Session(spec, folder).run().submitted == [], "there is nothing left to do"


@pytest.mark.parametrize("name", ["grid", "random", "grid, baseline, asha"])
def test_with_several_worker_groups_it_ends_with_the_same_trials(tmp_path, name):
    spec = study(**STUDIES[name])
    one, three = (Session(spec, tmp_path / f"{n}", worker_groups=n, diverges=sometimes_diverges).run() for n in (1, 3))
    assert one.ends.keys() == three.ends.keys()
    if spec.pruner.type == "none":
        assert one.outcome == three.outcome


@pytest.mark.parametrize("drain_after", [0, 1, 5, 9, 40])
@pytest.mark.parametrize("worker_groups", [1, 3])
def test_a_drained_study_ends_what_runs_and_goes_on_as_if_undisturbed(tmp_path, drain_after, worker_groups):
    spec = study(seeds=[0, 1], baselines={"ce": {"loss.type": "cross_entropy"}})
    drained = Session(spec, tmp_path / "drained", worker_groups=worker_groups)
    drained.drain_after = drain_after
    drained.run()
    assert all(end is End.FINISHED for end in drained.ends.values()), "what runs ends"
    assert drained.trained.total() <= drain_after + 6 * worker_groups
    done = len(drained.ends)
    whole = Session(spec, tmp_path / "whole", worker_groups=worker_groups).run()
    resumed = Session(spec, tmp_path / "drained", worker_groups=worker_groups).run()
    assert (done < len(whole.ends)) is (drain_after < 40)
    assert resumed.outcome == whole.outcome
    assert resumed.trained.total() + drained.trained.total() == whole.trained.total()


@pytest.mark.parametrize("pruner", [ASHA, MEDIAN], ids=lambda pruner: pruner["type"])
@pytest.mark.parametrize("drain_after", [1, 3, 8])
def test_a_drained_study_starts_the_seeds_that_a_pruner_waits_for_and_no_others(tmp_path, pruner, drain_after):
    spec = study(seeds=[0, 1, 2], pruner=pruner)
    drained = Session(spec, tmp_path / "drained")
    drained.drain_after = drain_after
    drained.run()
    assert all(end is not None for end in drained.ends.values()), "nothing waits for ever"
    begun = {name.split("-")[0] for name in drained.ends}
    assert len(drained.ends) == 3 * len(begun) < spec.total_trials
    resumed = Session(spec, tmp_path / "drained").run()
    assert len(resumed.ends) == spec.total_trials
    assert None not in resumed.ends.values()


def test_a_trial_that_a_user_stops_has_failed_and_the_others_go_on(tmp_path):
    spec = study(seeds=[0, 1])
    session = Session(spec, tmp_path / "s", worker_groups=2)
    session.trials.stop("0000-seed0", "too early")  # it has not begun: no effect
    assert session._start()
    session.trials.stop("0000-seed0", "stopped by anna")
    session.trials.stop("0000-seed0", "stopped by bilal")  # it has ended: no effect
    session.run()
    assert [end for name, end in session.ends.items() if name != "0000-seed0"] == 5 * [End.FINISHED]
    assert session.ends["0000-seed0"] is End.FAILED
    assert session.history_reasons() == {"0000-seed0": "stopped by anna"}
