"""`lncis noise`, as a person meets it: the copy, its manifest, and every mistake in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from lncis.commands import app as cli
from lncis.config import SymmetricNoise
from lncis.noise import corrupt
from lncis.noise.names import CITYSCAPES

IN, OUT, MANIFEST = Path("in.json"), Path("out.json"), Path("out.noise.json")
SYMMETRIC = ["--type", "symmetric", "--rate", "0.4", "--seed", "7"]


def clean() -> dict:
    return {
        "info": {"year": 2026, "x-own": ["é", None]},
        "licenses": [],
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8, "split": "x"}],
        "categories": [{"id": 3 * k, "name": name, "colour": "#fff"} for k, name in enumerate(CITYSCAPES)],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 3 * (n % 8), "bbox": [0.1, 2, 3, 1e-7], "track": {"n": n}}
            | ({"iscrowd": 1} if n % 50 == 0 else {})
            for n in range(2000)
        ],
    }


@pytest.fixture(autouse=True)
def file() -> None:
    IN.write_text(json.dumps(clean()))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["noise", *map(str, arguments)])


def refused(ran: Result) -> str:
    """Return the one line that a mistake is answered with; nothing was written."""
    assert ran.exit_code == 2, ran.output
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert ran.stderr.startswith("error: ")
    assert json.loads(IN.read_text()) == clean()
    assert not MANIFEST.exists()
    return ran.stderr


def folder() -> set[str]:
    return {path.name for path in Path().iterdir()}


def test_the_copy_and_its_manifest_are_those_of_the_library():
    ran = run(IN, OUT, *SYMMETRIC)
    assert ran.exit_code == 0, ran.output
    noisy, manifest = corrupt(clean(), SymmetricNoise(rate=0.4, seed=7), stream="train")
    assert json.loads(OUT.read_text()) == noisy
    assert json.loads(MANIFEST.read_text()) == manifest
    assert json.loads(IN.read_text()) == clean()
    assert folder() == {"in.json", "out.json", "out.noise.json"}


def test_exact_noise_flips_the_share_itself():
    ran = run(IN, OUT, *SYMMETRIC, "--exact")
    assert ran.exit_code == 0, ran.output
    assert "784 of 1,960 labels flipped; requested 40.0%, expected 40.0%, realised 40.0%" in ran.stdout


def test_all_fields_but_the_labels_are_those_of_the_input():
    run(IN, OUT, *SYMMETRIC)
    noisy = json.loads(OUT.read_text())
    for annotation in noisy["annotations"]:
        annotation["category_id"] = annotation.pop("clean_category_id")
    assert noisy == clean()


def test_the_table_says_rates_and_most_frequent_flips():
    output = run(IN, OUT, "--type", "release-compat", "--rate", "0.8", "--seed", "0").stdout
    manifest = json.loads(MANIFEST.read_text())
    flipped = sum(a["category_id"] != a["clean_category_id"] for a in json.loads(OUT.read_text())["annotations"])
    assert f"{flipped:,} of 1,960 labels flipped" in output
    assert f"requested 80.0%, expected 70.0%, realised {flipped / 1960:.1%}" in output
    counts = manifest["counts_given_clean_given_noisy"]
    rows = [line.split("│") for line in output.splitlines() if "->" in line]
    names = list(CITYSCAPES)
    shown = [(tuple(names.index(n) for n in row[1].strip().split(" -> ")), int(row[2])) for row in rows]
    assert all(counts[c][n] == number for (c, n), number in shown)
    most = sorted((counts[c][n] for c in range(8) for n in range(8) if c != n), reverse=True)
    assert [number for _, number in shown] == most[:5]


def test_names_are_not_read_as_markup():
    document = clean()
    document["categories"][0]["name"], document["categories"][1]["name"] = "[bold]", ":car:"
    document["annotations"] = [a for a in document["annotations"] if a["category_id"] < 6]
    IN.write_text(json.dumps(document))
    output = run(IN, OUT, *SYMMETRIC).stdout
    assert "[bold] -> " in output
    assert ":car: -> " in output


def test_streams_are_independent_draws():
    run(IN, OUT, *SYMMETRIC)
    run(IN, "val.json", *SYMMETRIC, "--stream", "val")
    train, val = (json.loads(Path(name).read_text()) for name in ("out.noise.json", "val.noise.json"))
    assert train["labels_sha256"] != val["labels_sha256"]
    assert val == corrupt(clean(), SymmetricNoise(rate=0.4, seed=7), stream="val")[1]


def test_maps_and_matrices_come_from_files():
    Path("map.yaml").write_text("car: truck\nbus: truck\n")
    assert run(IN, "a.json", "--type", "asymmetric", "--rate", "1", "--seed", "0", "--map", "map.yaml").exit_code == 0
    found = json.loads(Path("a.noise.json").read_text())
    assert found["realised_rate_by_class"] == dict.fromkeys(CITYSCAPES, 0) | {"car": 1, "bus": 1}
    rows = [[float(n == (c + 1) % 8) for n in range(8)] for c in range(8)]
    Path("matrix.yaml").write_text(yaml.safe_dump({"classes": list(CITYSCAPES), "rows": rows}))
    assert run(IN, "b.json", "--type", "matrix", "--seed", "0", "--matrix", "matrix.yaml").exit_code == 0
    assert json.loads(Path("b.noise.json").read_text())["transition_matrix"] == rows


def test_the_map_is_chosen_by_the_classes_or_by_name():
    requested = ["--type", "asymmetric", "--rate", "0.4", "--seed", "0"]
    assert run(IN, OUT, *requested).exit_code == 0
    assert json.loads(MANIFEST.read_text())["requested_rate_by_class"]["rider"] == 0.4
    MANIFEST.unlink()
    complaint = refused(run(IN, "other.json", *requested, "--map-of", "coco"))
    assert "in.json: asymmetric noise goes by class names, and coco lacks rider" in complaint


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--type", "symmetric", "--seed", "0", "--rate", "1.5"], "lncis noise: rate: must be less than or equal to 1"),
        (["--type", "symmetric", "--seed", "0", "--rate", "-0.1"], "rate: must be greater than or equal to 0 but got"),
        (["--type", "symmetric", "--seed", "0", "--rate", "nan"], "rate: must be "),
        (["--type", "symmetric", "--seed", "0", "--rate", "40%"], "rate: must be a valid number"),
        (["--type", "symmetric", "--seed", "1.5", "--rate", "0.4"], "seed: must be a valid integer"),
        (
            ["--type", "uniform", "--seed", "0", "--rate", "0.4"],
            "lncis noise: type: must be one of 'none', 'symmetric',",
        ),
        (["--rate", "0.4"], "lncis noise: needs --type, --seed; see lncis noise --help"),
        (["--type", "symmetric"], "needs --rate, --seed"),
        (["--type", "matrix", "--seed", "0"], "needs --matrix"),
        (["--type", "matrix", "--seed", "0", "--matrix", "no.yaml"], "no.yaml: no such file; check the path"),
        (
            ["--type", "matrix", "--seed", "0", "--rate", "0", "--matrix", "matrix.yaml"],
            "rate: no such field with type matrix, only with ",
        ),
        ([*SYMMETRIC, "--pair"], "pair: no such field with type symmetric, only with asymmetric"),
        (["--type", "none", "--seed", "0"], "seed: no such field with type none, only with symmetric or "),
        (["--type", "asymmetric", "--rate", "0.4", "--seed", "0", "--pair"], "coco lacks rider"),
        (["--type", "asymmetric", "--rate", "0.4", "--seed", "0", "--map", "list.yaml"], "map.bus: must be a valid"),
        (["--type", "asymmetric", "--rate", "0.4", "--seed", "0", "--map", "map.yaml"], "Car (did you mean car?)"),
    ],
)
def test_wrong_options_are_answered_in_one_line(arguments, complaint):
    Path("map.yaml").write_text("Car: truck\n")
    Path("matrix.yaml").write_text("{classes: [a], rows: [[1]]}")
    Path("list.yaml").write_text("bus: [car, truck]\n")
    assert complaint in refused(run(IN, OUT, *arguments))
    assert not OUT.exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "in.json: is not JSON (Expecting property name"),
        ("", "in.json: is not JSON (Expecting value"),
        ("[" * 100_000, "in.json: is not JSON ("),
        ("\xff", "in.json: byte 0xff at position 0 is not UTF-8"),
        ("[]", "in.json: a COCO document must be an object"),
        ('{"annotations": []}', "in.json: categories must be a list but are missing"),
        ('{"annotations": [], "categories": []}', "categories must name at least one class"),
        ('{"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}', "annotations must be a list but are"),
        (json.dumps(clean() | {"annotations": clean()["annotations"][:1] * 2}), "annotations: id 0 stands there more"),
        (json.dumps(clean() | {"annotations": [{"id": 1}]}), "annotations[0]: category_id must be a whole number"),
        (json.dumps(clean() | {"annotations": [{"id": 5, "category_id": 1}]}), "annotation 5 has category_id 1, which"),
        (json.dumps(corrupt(clean(), SymmetricNoise(), stream="train")[0]), "it holds label noise already"),
    ],
)
def test_wrong_files_are_answered_in_one_line(text, complaint):
    IN.write_bytes(text.encode("latin-1"))
    ran = run(IN, OUT, *SYMMETRIC)
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1), ran.output
    assert complaint in ran.stderr
    assert folder() == {"in.json"}


def test_a_file_that_is_not_there():
    assert "nowhere.json: no such file; check the path" in refused(run("nowhere.json", OUT, *SYMMETRIC))
    assert "cannot be read: Is a directory" in refused(run(Path.cwd(), OUT, *SYMMETRIC))


def alias(kind: str) -> Path:
    if kind == "symlink":
        OUT.symlink_to(IN)
    elif kind == "hardlink":
        os.link(IN, OUT)
    return IN if kind == "itself" else OUT


@pytest.mark.parametrize("kind", ["itself", "symlink", "hardlink"])
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_the_input_is_never_written_to(kind, force):
    assert "is the input in.json, which is never written to" in refused(run(IN, alias(kind), *SYMMETRIC, *force))


def test_the_manifest_never_replaces_the_input_either():
    IN.rename("out.noise.json")
    ran = run("out.noise.json", OUT, *SYMMETRIC, "--force")
    assert (ran.exit_code, OUT.exists()) == (2, False)
    assert "out.noise.json is the input out.noise.json" in ran.stderr
    assert json.loads(MANIFEST.read_text()) == clean()


def test_what_exists_is_replaced_by_force_alone():
    OUT.write_text("mine")
    assert "out.json exists already; name another file, or replace it by --force" in refused(run(IN, OUT, *SYMMETRIC))
    assert OUT.read_text() == "mine"
    assert run(IN, OUT, *SYMMETRIC, "--force").exit_code == 0
    assert json.loads(OUT.read_text())["annotations"]


def test_a_manifest_that_exists_is_kept():
    MANIFEST.write_text("mine")
    ran = run(IN, OUT, *SYMMETRIC)
    assert "out.noise.json exists already" in ran.stderr
    assert (ran.exit_code, MANIFEST.read_text(), OUT.exists()) == (2, "mine", False)


def test_a_link_in_place_of_the_copy_is_replaced_and_not_followed():
    Path("target.json").write_text("mine")
    OUT.symlink_to("target.json")
    assert "exists already" in refused(run(IN, OUT, *SYMMETRIC))
    assert run(IN, OUT, *SYMMETRIC, "--force").exit_code == 0
    assert Path("target.json").read_text() == "mine"
    assert not OUT.is_symlink()


@pytest.mark.parametrize("out", [".", "/dev/null", "there"])
def test_only_a_file_can_be_replaced(out):
    Path("there").mkdir()
    assert "is no regular file; name another one" in refused(run(IN, out, *SYMMETRIC, "--force"))


def test_a_folder_that_is_not_there():
    assert "nowhere is no folder; create it" in refused(run(IN, "nowhere/out.json", *SYMMETRIC))


def test_a_full_disk_leaves_nothing(small_disk):
    document = clean()
    document["info"]["long"] = "x" * 200_000
    IN.write_text(json.dumps(document))
    ran = run(IN, small_disk / "out.json", *SYMMETRIC)
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
    assert "cannot be written: No space left on device; free some room" in ran.stderr
    assert not list(small_disk.iterdir())


def test_an_interrupt_leaves_nothing(monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    ran = run(IN, OUT, *SYMMETRIC)
    assert (ran.exit_code, ran.stderr) == (130, "interrupted\n")
    assert folder() == {"in.json"}


@pytest.mark.processes
def test_the_command_itself():
    """A real process; it loads no torch."""
    code = "import sys; from lncis.commands.app import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code, "noise", IN, OUT, *SYMMETRIC], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("labels: out.json\nmanifest: out.noise.json\nFalse\n")
    again = subprocess.run(
        [sys.executable, "-m", "lncis", "noise", IN, OUT, "--type", "symmetric", "--rate", "2", "--seed", "7"],
        capture_output=True,
        text=True,
    )
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "error: lncis noise: rate: must be less than or equal to 1 but got '2'\n"
