"""Configuration files are checked whole, and a spec holds the science and nothing else."""

from __future__ import annotations

import pytest
import yaml

from ctfm import resources, spec
from ctfm.errors import UserError

CORPUS = {"corpora": {"idc": {}}}
RUN = {**CORPUS, "pretrain": {"ctfm": {"corpus": "idc"}}, "encoders": {"random": {}}}


@pytest.mark.parametrize("name", ["config", "demo", "idc_mini", "experiments/phantom_pretraining"])
def test_shipped_configurations_are_valid(root, name):
    spec.load(root / "config" / f"{name}.yaml")


def test_published_overlay_changes_only_what_it_names(root):
    paper = spec.load(root / "config/config.yaml").pretrain["ctfm"]
    published = spec.load(root / "config/config.yaml", root / "config/published.yaml").pretrain["ctfm"]
    assert (paper.patch, published.patch) == ((24, 128, 128), (32, 128, 128))
    assert published.method_options == {"temperature": 0.1, "symmetric": False}
    assert published.crops_per_scan == paper.crops_per_scan == 20


@pytest.mark.parametrize("name", ["published", "published_weights", "ablations", "label_groups", "merlin", "open"])
def test_overlays_fit_the_papers_run(root, name):
    spec.load(root / "config/config.yaml", root / f"config/{name}.yaml")


def test_label_groups_and_merlin_name_labels_that_exist(root):
    rows = resources.path("labels", "totalsegmentator_v2.csv").read_text().splitlines()[1:]
    known = {row.split(",")[1]: row.split(",")[2] for row in rows}
    groups = spec.load(root / "config/config.yaml", root / "config/label_groups.yaml").tasks
    named = {name: task.options["labels"] for name, task in groups.items() if name in known.values()}
    assert named == {group: [group] for group in ("organs", "vertebrae", "cardiac", "muscles", "ribs")}
    assert {list(known.values()).count(group) for group in named} == {24, 26, 18, 23}
    merlin = spec.load(root / "config/config.yaml", root / "config/merlin.yaml")
    labels = merlin.tasks["merlin"].options["labels"]
    assert len(set(labels)) == 20 and set(labels) <= set(known)
    assert merlin.datasets["totalsegmentator_merlin"].split == "official"


def test_few_shots_may_be_shares_and_the_published_ones_are(root):
    task = spec.load(root / "config/config.yaml", root / "config/published.yaml").tasks["wholebody"]
    assert task.shots == (0.005, 0.01, 0.02, "all") and task.few_shot == "file_order"
    cfg = spec.load(root / "config/config.yaml")
    for text, shots in (("5", 5), ("0.01", 0.01), ("all", "all")):
        job = spec.spec(cfg, "adapt", task="wholebody", encoder="ctfm", shots=text, seed="1")
        assert job["shots"] == shots and job["task"]["few_shot"] == "random"
    for wrong in (0, 1.5, "few"):
        with pytest.raises(UserError, match=r"tasks\.x\.shots"):
            spec.check({"tasks": {"x": {"kind": "segment", "dataset": "d", "shots": [wrong]}}})


def test_ablations_are_six_objectives_with_the_papers_numbers_of_crops(root):
    runs = spec.load(root / "config/config.yaml", root / "config/ablations.yaml").pretrain
    kinds = {(run.method, run.method_options["sampling"]) for run in runs.values()}
    assert kinds == {(method, way) for method in ("simclr", "simsiam", "vicreg") for way in ("intra", "cross")}
    assert {run.crops_per_scan for name, run in runs.items() if name.startswith("simclr_intra")} == {5, 10, 15}
    assert all(run.epochs * run.steps_per_epoch == 12_500 and run.global_batch == 15 for run in runs.values())
    assert runs["vicreg_cross"].learning_rate == pytest.approx(7e-4 * 15 / 256, rel=1e-3)


def test_an_entry_that_is_null_is_taken_away():
    assert not spec.check({**RUN, "encoders": {"random": None}}).encoders


def test_crops_of_a_scan_need_company():
    alone = {"corpus": "idc", "crops_per_scan": 1}
    with pytest.raises(UserError, match=r"pretrain.x.crops_per_scan: .* take 2 or more"):
        spec.check({**CORPUS, "pretrain": {"x": alone}})
    spec.check({**CORPUS, "pretrain": {"x": {**alone, "method_options": {"sampling": "cross"}}}})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"reprot": {}}, "reprot: unknown key; did you mean 'report'?"),
        (
            {**CORPUS, "pretrain": {"x": {"corpus": "idc", "epoch": 3}}},
            "pretrain.x.epoch: unknown key; did you mean 'epochs'?",
        ),
        (
            {**CORPUS, "pretrain": {"x": {"corpus": "icd"}}},
            "pretrain.x.corpus: 'icd' is not an entry of corpora; did you mean 'idc'?",
        ),
        ({**CORPUS, "pretrain": {"x": {"corpus": "idc", "method": "simcrl"}}}, "did you mean 'simclr'?"),
        (
            {**CORPUS, "pretrain": {"x": {"corpus": "idc", "method_options": {"temprature": 1}}}},
            "did you mean 'temperature'?",
        ),
        ({"report": {"figures": {"dpy": 100}}}, "report.figures.dpy: unknown key; did you mean 'dpi'?"),
        ({**CORPUS, "pretrain": {"x": {"corpus": "idc", "epochs": "many"}}}, "pretrain.x.epochs"),
        ({"datasets": {"x": {"kind": "totalsegmentator"}}}, "datasets.x.root: this key is required"),
        ({**RUN, "encoders": {"ctfm": {}}}, "rename"),
        ({"probe": {"task": "wholebody"}}, "probe.task"),
    ],
)
def test_wrong_settings_name_the_key_and_the_remedy(settings, words):
    with pytest.raises(UserError) as caught:
        spec.check(settings)
    assert words in str(caught.value)


def test_files_that_are_no_configuration(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        spec.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="not valid YAML"):
        spec.load(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="mapping"):
        spec.load(tmp_path / "list.yaml")


def test_spec_names_defaults_of_plugins_and_the_version():
    job = spec.spec(spec.check(RUN), "pretrain", encoder="ctfm")
    assert job["version"] == 1
    assert job["pretrain"]["method_options"]["temperature"] == 0.1
    assert job["pretrain"]["encoder_options"]["blocks_down"] == [1, 2, 2, 4, 4]


def test_what_is_only_measured_is_no_part_of_training():
    def specs(**options):
        task = {"kind": "segment", "dataset": "small", "options": options}
        small = {"kind": "totalsegmentator", "root": "small"}
        cfg = spec.check({**RUN, "datasets": {"small": small}, "tasks": {"organs": task}, "probe": {"task": "organs"}})
        names = {"task": "organs", "encoder": "ctfm", "shots": "all", "seed": 0}
        return [spec.spec(cfg, stage, **names) for stage in ("adapt", "probe", "evaluate")]

    before, after = specs(), specs(surface=True, tolerance_mm=1)
    assert before[:2] == after[:2]
    assert after[2]["task"]["options"]["surface"] and not before[2]["task"]["options"]["surface"]
    assert specs(epochs=3)[0] != before[0]


def test_the_machine_is_no_part_of_any_spec():
    slow = spec.spec(spec.check(RUN), "pretrain", encoder="ctfm")
    fast = spec.spec(
        spec.check({**RUN, "machine": {"micro_batch": 1, "precision": "bf16-mixed"}}), "pretrain", encoder="ctfm"
    )
    assert slow == fast


def test_an_absent_section_or_entry_says_so():
    cfg = spec.check(RUN)
    with pytest.raises(UserError, match="phantom: this section is absent"):
        spec.spec(cfg, "phantom")
    with pytest.raises(UserError, match="did you mean 'ctfm'"):
        spec.spec(cfg, "pretrain", encoder="ctmf")


def test_overlay_is_deep(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(RUN))
    (tmp_path / "b.yaml").write_text("pretrain: {ctfm: {epochs: 7}}")
    assert spec.load(tmp_path / "a.yaml", tmp_path / "b.yaml").pretrain["ctfm"].epochs == 7


def test_a_spec_is_read_from_text_or_file(tmp_path):
    (tmp_path / "job.json").write_text('{"stage": "x"}')
    assert spec.read('{"stage": "x"}') == spec.read(str(tmp_path / "job.json")) == {"stage": "x"}
    with pytest.raises(UserError, match="not valid JSON"):
        spec.read("{")


def test_options_of_one_encoder_change_its_job_alone():
    base = {
        "datasets": {"d": {"kind": "totalsegmentator", "root": "x"}},
        "encoders": {"a": {}, "b": {}},
        "tasks": {"t": {"kind": "segment", "dataset": "d", "options": {"epochs": 7}}},
    }
    own = spec.check({**base, "tasks": {"t": {**base["tasks"]["t"], "per_encoder": {"a": {"learning_rate": 5e-4}}}}})
    job = lambda cfg, name, stage: spec.spec(cfg, stage, task="t", encoder=name, shots="all", seed="0")  # noqa: E731
    for stage in ("adapt", "evaluate"):
        assert job(own, "a", stage)["task"]["options"]["learning_rate"] == 5e-4
        assert job(own, "a", stage)["task"]["options"]["epochs"] == 7
        assert job(own, "b", stage) == job(spec.check(base), "b", stage)
    with pytest.raises(UserError, match=r"tasks\.t\.per_encoder: 'c' is not an entry"):
        spec.check({**base, "tasks": {"t": {**base["tasks"]["t"], "per_encoder": {"c": {}}}}})
    with pytest.raises(UserError, match=r"per_encoder\.a options\.learning_rat: unknown key"):
        spec.check({**base, "tasks": {"t": {**base["tasks"]["t"], "per_encoder": {"a": {"learning_rat": 1}}}}})


def test_the_papers_tumours_have_their_learning_rates(root):
    cfg = spec.load(root / "config/config.yaml")
    tumours = {name: task for name, task in cfg.tasks.items() if task.kind == "tumour"}
    assert len(tumours) == 4 and all(cfg.datasets[task.dataset].split == "paper" for task in tumours.values())
    for task in tumours:
        jobs = [spec.spec(cfg, "adapt", task=task, encoder=e, shots="all", seed=0) for e in ("ctfm", "random")]
        ours, theirs = (job["task"]["options"] for job in jobs)
        assert (ours.pop("learning_rate"), theirs.pop("learning_rate")) == (5e-4, 2e-4)
        assert ours == theirs


def test_published_triage_differs_where_the_paper_and_its_code_do(root):
    paper = spec.load(root / "config/config.yaml")
    published = spec.load(root / "config/config.yaml", root / "config/published.yaml")
    jobs = [
        spec.spec(c, "adapt", task="head_triage", encoder="ctfm", shots="0.02", seed="0") for c in (paper, published)
    ]
    ours, theirs = (job["task"]["options"] for job in jobs)
    assert jobs[0]["shots"] == 0.02 and jobs[0]["task"]["external"] == ["cq500"]
    assert (ours["epochs"], ours["batch"], ours["learning_rate"], ours["weight_decay"]) == (40, 64, 1e-4, 1e-5)
    assert ours["final_rate"] * ours["learning_rate"] == pytest.approx(1e-6) and ours["hidden"] is None
    assert (theirs["pool"], theirs["pooled"], theirs["hidden"]) == ("max", [1, 2, 2], [256, 128])
    assert (theirs["join"], theirs["own_window"], theirs["weight_decay"]) == ("first", [], 0.05)
    sizes = [int(n * theirs["validation_ratio"]) for n in (156, 391, 782, 7823)]
    assert sizes == [19, 48, 97, 978]  # the published validation sets
    assert "head_triage" not in spec.load(root / "config/config.yaml", root / "config/open.yaml").tasks


def test_an_unknown_external_data_set_is_named():
    task = {"kind": "triage", "dataset": "d", "external": ["cq50"]}
    sets = {name: {"kind": kind, "root": "x"} for name, kind in (("d", "sinoct"), ("cq500", "cq500"))}
    with pytest.raises(UserError, match=r"tasks\.t\.external: 'cq50' is not an entry.*did you mean 'cq500'"):
        spec.check({"datasets": sets, "tasks": {"t": task}})
