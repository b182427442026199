"""A Ray cluster of two machines: what is killed, hangs or fails costs no picture and makes none twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed here: `make test-ray` does it")
pq = pytest.importorskip("pyarrow.parquet")

from tests.ray.hosts import HEAD, PORT, STORE_PORT, Hosts, why_not  # noqa: E402
from tests.unit.test_caption import blip  # noqa: E402, F401

ADDRESS = f"{HEAD}:{PORT}"
RENDERS = Path(__file__).parents[2] / "assets" / "renders" / "eval"
TRANSLATE = ("-m", "lib_negtrans", "translate", "--preset", "fast", "--negative-prompt", "a render", "--size", "64x64")
RAY = ("--engine", "ray", "--ray-address", ADDRESS)

pytestmark = [pytest.mark.skipif(why_not() is not None, reason=str(why_not())), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with Hosts(tmp_path_factory.mktemp("hosts")) as found:
        yield found


def renders(folder, count):
    """Renders of other names: a picture's name is written into its translation."""
    files = sorted(RENDERS.glob("fl_*.jpg"))
    for number in range(count):
        target = folder / f"part {number % 3}" / f"{number:03}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[number % len(files)], target)
    return folder


def pictures(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def locally(tmp_path, source):
    """What the local engine makes of a folder, by one thread as each actor does."""
    call = [sys.executable, *TRANSLATE, "--input", str(source), "--out", str(tmp_path / "local")]
    subprocess.run(call, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    return pictures(tmp_path / "local")


def test_sixty_renders_while_a_machine_dies_are_those_of_the_local_engine(hosts, tmp_path):
    source, out = renders(tmp_path / "in", 60), tmp_path / "out"
    run = hosts.start(*TRANSLATE, "--input", source, "--out", out, *RAY, "--block", 4, "--json")
    while len(pictures(out)) < 5:
        assert run.poll() is None, run.communicate()
        time.sleep(0.2)
    time.sleep(random.uniform(0, 5))
    there = len(pictures(out))
    hosts.kill_second()
    said, error = run.communicate(timeout=300)
    hosts.start_second()
    assert run.returncode == 0, error
    assert there < 55
    assert pictures(out) == locally(tmp_path, source)
    done = json.loads(said.splitlines()[-1])
    # one that was written in the moment of the kill is known by its file alone
    assert done["event"] == "done" and done["translated"] + done["skipped"] == 60 and done["skipped"] <= 3
    table = pq.read_table(out / "negtrans-results").to_pylist()
    assert len({row["source"] for row in table}) == len(table) == 60
    assert Counter(row["status"] for row in table)["failed"] == 0


def test_from_store_to_store_where_every_twentieth_request_fails(hosts, tmp_path):
    source = renders(tmp_path / "in", 24)
    server = hosts.start("-m", "tests.ray.store", HEAD, STORE_PORT, 0.05)
    try:
        code = (
            "import sys, time, s3fs\n"
            "for attempt in range(50):\n"
            "    try:\n"
            "        s3 = s3fs.S3FileSystem(skip_instance_cache=True); s3.ls(''); break\n"
            "    except Exception: time.sleep(0.2)\n"
            "s3.mkdir('the-in'); s3.mkdir('the-out'); s3.put(sys.argv[1], 'the-in/renders', recursive=True)\n"
            "s3.pipe('the-in/renders/bad one.png', b'no picture')\n"
        )
        put, _, error = hosts.run("-c", code, source)
        assert put == 0, error
        call = (*TRANSLATE, "--input", "s3://the-in/renders", "--out", "s3://the-out/photos", *RAY, "--json")
        code, said, error = hosts.run(*call)
        lines = [json.loads(line) for line in said.splitlines()]
        assert code == 1, error
        assert (lines[-1]["translated"], lines[-1]["failed"]) == (24, 1)
        assert "s3://the-in/renders/bad one.png: cannot be read as a picture" in error
        again, said, _ = hosts.run(*call)
        assert again == 1 and json.loads(said.splitlines()[-1])["skipped"] == 24
        get = "import sys, s3fs; s3fs.S3FileSystem().get('the-out/photos', sys.argv[1], recursive=True)"
        assert hosts.run("-c", get, tmp_path / "got")[0] == 0
        counts = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
        failed, asked = map(int, hosts.run("-c", counts, f"http://{HEAD}:{STORE_PORT}/counts")[1].split(" of "))
        assert asked > 100 and failed > 0.02 * asked
    finally:
        server.kill()
    assert pictures(tmp_path / "got") == locally(tmp_path, source)


def texts(folder, contents):
    folder.mkdir()
    for number, content in enumerate(contents):
        (folder / f"{number:04}").write_text(content)
    return folder


def stub(tmp_path, *more):
    return (
        "-m", "tests.ray.run_stub", "--input", tmp_path / "in", "--out", tmp_path / "out",
        "--log", tmp_path / "log", "--address", ADDRESS, *more,
    )  # fmt: skip


def test_what_raises_hangs_kills_or_lacks_memory_is_named_and_the_rest_is_done(hosts, tmp_path):
    faults = {3: "raise", 5: "hang", 11: "kill", 12: "memory", 20: "memory once"}
    texts(tmp_path / "in", [faults.get(number, "wait 0.02") for number in range(40)])
    code, said, error = hosts.run(*stub(tmp_path, "--block", 8, "--timeout", 4))
    assert code == 0, error
    result = json.loads(said)
    assert result["counts"] == {"made": 36, "failed": 4}
    errors = result["errors"]
    assert errors["0003"] == "failed unexpectedly (ValueError: a picture like no other)."
    assert errors["0005"].startswith("took longer than 4 s") and errors["0011"].startswith("has ended the process")
    assert errors["0012"].startswith("needs more memory")
    begun = Counter(line.split()[1] for line in (tmp_path / "log").read_text().splitlines() if line.startswith("begin"))
    assert begun["0011"] == begun["0012"] == begun["0020"] == 2 and begun["0005"] == begun["0003"] == 1
    rows = {row["source"]: row for row in pq.read_table(tmp_path / "out" / "negtrans-results").to_pylist()}
    assert len(rows) == 40 and rows[str(tmp_path / "in" / "0005")]["error"] == errors["0005"]
    assert Counter(row["status"] for row in rows.values()) == {"made": 36, "failed": 4}


def test_ten_kills_of_anything_lose_nothing(hosts, tmp_path):
    texts(tmp_path / "in", ["wait 0.2"] * 240)
    call = stub(tmp_path, "--block", 6)
    run, kills, seen = hosts.start(*call), [], 0
    while run.poll() is None:
        ended = (tmp_path / "log").read_text().count("end ") if (tmp_path / "log").exists() else 0
        if ended < seen + 8:  # every kill meets a run that works
            time.sleep(0.1)
            continue
        time.sleep(random.uniform(0, 0.5))
        seen = ended
        if len(kills) == 10:
            continue
        kind = ("worker", "machine", "driver")[len(kills) % 3]
        kills.append(kind)
        if kind == "worker":
            os.kill(random.choice(hosts.workers()), signal.SIGKILL)
        elif kind == "machine":
            hosts.kill_second()
            hosts.start_second()
        else:
            run.kill()
            run.communicate()
            run = hosts.start(*call)
    _, error = run.communicate(timeout=300)
    assert run.returncode == 0, error
    assert len(kills) == 10
    made = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.sha")}
    assert len(made) == 240 and len({content.split()[1] for content in made.values()}) == 1
    assert all(content.startswith(name[:4].encode()) for name, content in made.items())
    begun = Counter(line.split()[1] for line in (tmp_path / "log").read_text().splitlines() if line.startswith("begin"))
    twice = sum(count - 1 for count in begun.values())
    # of each of two actors, the one in work and those that wait for their file
    assert twice <= 10 * 2 * 2, twice


def test_a_job_that_cannot_start_ends_the_run_in_a_sentence(hosts, tmp_path):
    texts(tmp_path / "in", ["wait 0"] * 4)
    code, _, error = hosts.run(*stub(tmp_path, "--log", tmp_path / "no start"))
    assert code == 1 and "there is no model here." in error.strip().splitlines()[-1]
    source = renders(tmp_path / "renders", 2)
    call = (*TRANSLATE, "--input", source, "--out", tmp_path / "photos", *RAY)
    code, _, error = hosts.run(*call, "--model", tmp_path / "none.safetensors")
    assert code == 2 and error.strip().splitlines()[-1].startswith("error: There is no ")
    code, _, error = hosts.run(*call, "--cpus-per-actor", 2)
    assert code == 2 and "there are 2 cores" in error.replace("\n", " ") and not (tmp_path / "photos").exists()
    code, _, error = hosts.run(*call[:-1], f"{HEAD}:1")
    assert code == 2 and f"Ray {HEAD}:1 does not answer" in error and "Traceback" not in error


def test_captions_and_measures_are_those_of_the_local_engine(hosts, tmp_path, blip):  # noqa: F811
    source = renders(tmp_path / "in", 12)
    (source / "bad.png").write_bytes(b"x")
    here = shutil.copytree(source, tmp_path / "here")
    for folder, engine in ((here, ()), (source, RAY)):
        code, _, error = hosts.run("-m", "lib_negtrans", "caption", folder, "--captioner", blip, *engine)
        assert code == 1 and "bad.png: cannot be read as a picture" in error
    found = [{p.relative_to(f): p.read_text() for p in f.rglob("*.txt")} for f in (here, source)]
    assert found[0] == found[1] and len(found[0]) == 12
    outputs = shutil.copytree(source, tmp_path / "outputs", ignore=shutil.ignore_patterns("*.txt", "negtrans-results"))
    (outputs / "part 0" / "000.jpg").unlink()
    tables = []
    for engine in ((), RAY):
        call = ("-m", "lib_negtrans", "evaluate", "--renders", source, "--outputs", outputs, "--json", *engine)
        code, said, error = hosts.run(*call)
        assert code == 1 and "000.jpg: has no picture in" in error, error
        tables.append([line for line in map(json.loads, said.splitlines()) if line["event"] == "evaluation"])
    assert tables[0] == tables[1] and tables[0][0]["renders"] == 11
    assert not (outputs / "negtrans-results").exists()
