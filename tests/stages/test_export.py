from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from ctfm import plugins, spec, weights
from ctfm.errors import UserError
from ctfm.files import read_json, write_json
from ctfm.imaging import store
from ctfm.imaging.volume import write_nifti
from ctfm.stages import export as stage
from ctfm.stages.adapt import predict
from ctfm.stages.pretrain import pretrain
from ctfm.training import checkpoints, seeds
from tests import makers
from tests.stages import test_adapt, test_pretrain
from tests.training import corpora

OPTIONS = test_pretrain.ENTRY["encoder_options"]


def job(name="random", **encoder) -> str:
    cfg = spec.check(
        {
            "corpora": {"c": {}},
            "pretrain": {"mine": test_pretrain.ENTRY},
            "encoders": {"random": {"options": OPTIONS, **encoder}},
        }
    )
    return json.dumps(spec.spec(cfg, "export", encoder=name))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    index = corpora.write(folder / "volumes", spacing=(2.0, 1.5, 1.5))
    pretrain(test_pretrain.job(), volumes=index, out=folder / "encoder")
    return folder / "encoder"


def held(path):
    return checkpoints.encoder(checkpoints.read(path))


def test_the_last_checkpoint_is_exported_by_default(pretrained, tmp_path):
    stage.export(job("mine"), pretrained=pretrained, out=tmp_path)
    loaded, state = weights.load_encoder(tmp_path), held(pretrained / "checkpoints/last.ckpt")
    assert all(torch.equal(value, state[key]) for key, value in loaded.module.state_dict().items())
    assert loaded.preprocess.spacing_mm == (2.0, 1.5, 1.5) and loaded.preprocess.patch == (16, 32, 32)
    assert (loaded.facts["checkpoint"], loaded.facts["step"]) == ("last.ckpt", 6)
    assert loaded.facts["fingerprint"] == read_json(pretrained / "run.json")["fingerprint"]
    card = (tmp_path / "README.md").read_text()
    assert "# mine" in card and "2 x 1.5 x 1.5 mm" in card and "3 CT series, 12 scan visits, 6 steps" in card
    assert str(pretrained) not in card + (tmp_path / "preprocessing.json").read_text()


def test_the_selected_checkpoint_is_exported(pretrained, tmp_path):
    choice = {"checkpoint": "epoch=0001.ckpt", "epoch": 1, "metric": "macro_dice", "value": 0.5, "why": "best"}
    write_json(choice, tmp_path / "selected.json")
    stage.export(job("mine"), pretrained=pretrained, selected=tmp_path / "selected.json", out=tmp_path / "out")
    loaded, state = weights.load_encoder(tmp_path / "out"), held(pretrained / "checkpoints/epoch=0001.ckpt")
    assert all(torch.equal(value, state[key]) for key, value in loaded.module.state_dict().items())
    assert loaded.facts["chosen"] == choice and loaded.facts["step"] == 4


def test_what_is_missing_or_does_not_fit_is_told(pretrained, tmp_path):
    write_json({"checkpoint": "epoch=0777.ckpt"}, tmp_path / "selected.json")
    with pytest.raises(UserError, match=r"epoch=0777.ckpt: no such file"):
        stage.export(job("mine"), pretrained=pretrained, selected=tmp_path / "selected.json", out=tmp_path / "out")
    other = json.loads(job("mine"))
    other["encoder"]["options"]["init_filters"] = 8
    with pytest.raises(UserError, match="wrong shape"):
        stage.export(json.dumps(other), pretrained=pretrained, out=tmp_path / "out")
    with pytest.raises(UserError, match=r"last\.ckpt: no such file"):
        stage.export(job("mine"), pretrained=tmp_path / "nowhere", out=tmp_path / "out")


def test_random_weights_depend_on_the_seed_alone(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        stage.import_weights(job(seed=seed), out=tmp_path / name)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    assert weights.load_encoder(tmp_path / "c").facts["seed"] == 1
    assert "random" in (tmp_path / "a/README.md").read_text()


def test_weights_come_from_a_folder_of_ours(pretrained, tmp_path):
    stage.export(job("mine"), pretrained=pretrained, out=tmp_path / "ours")
    stage.import_weights(job(weights=str(tmp_path / "ours")), out=tmp_path / "copy")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    copy = weights.load_encoder(tmp_path / "copy")
    assert copy.preprocess.spacing_mm == (2.0, 1.5, 1.5) and copy.facts["source"] == "ours" and copy.facts["step"] == 6


def test_weights_come_from_a_folder_of_lighter_zoo(tmp_path):
    stage.import_weights(job(), out=tmp_path / "theirs")
    for name in ("preprocessing.json", "README.md"):
        (tmp_path / "theirs" / name).unlink()
    stage.import_weights(job(weights=str(tmp_path / "theirs")), out=tmp_path / "copy")
    assert (tmp_path / "copy/model.safetensors").read_bytes() == (tmp_path / "theirs/model.safetensors").read_bytes()
    assert weights.load_encoder(tmp_path / "copy").preprocess.spacing_mm == (3.0, 1.0, 1.0)


def test_weights_come_from_a_checkpoint_and_all_names_are_reported(pretrained, tmp_path):
    """The published run's layout, with the weights of a run of ours, and our own checkpoint as it is."""
    state = held(pretrained / "checkpoints/last.ckpt")
    theirs = {f"model.backbone.{key}": value for key, value in state.items()}
    torch.save({"state_dict": theirs | {"model.projection_head.0.weight": torch.ones(2)}}, tmp_path / "theirs.ckpt")
    for path, rest in (
        (tmp_path / "theirs.ckpt", "model.projection_head."),
        (pretrained / "checkpoints/last.ckpt", ""),
    ):
        out = tmp_path / path.stem
        stage.import_weights(job(weights=str(path)), out=out)
        loaded, report = weights.load_encoder(out), read_json(out / "import.json")
        assert all(torch.equal(value, state[key]) for key, value in loaded.module.state_dict().items())
        assert len(report["matched"]) == len(state) and report["missing"] == [] and report["unexpected"]
        assert all(key.startswith(rest) for key in report["unexpected"])
        assert loaded.facts["source"] == path.name and loaded.facts["sha256"] == report["sha256"]
        texts = "".join((out / name).read_text() for name in ("README.md", "preprocessing.json", "import.json"))
        assert str(tmp_path) not in texts and str(pretrained) not in texts
    stage.import_weights(job(), out=out)
    assert not (out / "import.json").exists()


def test_weights_come_from_suprem(tmp_path):
    entry = {"kind": "suprem_unet", "options": {"init_filters": 2}}
    stage.import_weights(job(**entry), out=tmp_path / "random")
    state = weights.load_encoder(tmp_path / "random").module.state_dict()
    net = {f"module.backbone.{key}": value for key, value in state.items()}
    net |= {"module.backbone.out_tr.final_conv.bias": torch.ones(1)}
    torch.save({"net": net, "optimizer": {}, "scheduler": {}, "epoch": 2100}, tmp_path / "suprem.pth")
    stage.import_weights(job(**entry, weights=str(tmp_path / "suprem.pth")), out=tmp_path / "out")
    loaded, report = weights.load_encoder(tmp_path / "out"), read_json(tmp_path / "out/import.json")
    assert loaded.kind == "suprem_unet" and loaded.preprocess.orientation == "RAS"
    assert all(torch.equal(value, state[key]) for key, value in loaded.module.state_dict().items())
    assert (len(report["matched"]), report["unexpected"]) == (56, ["module.backbone.out_tr.final_conv.bias"])
    with pytest.raises(UserError, match="none of its 57 tensors is one of the encoder's"):
        stage.import_weights(job(weights=str(tmp_path / "suprem.pth")), out=tmp_path / "never")
    assert not (tmp_path / "never").exists()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted")
    makers.random_encoder(folder / "tiny")
    makers.case_table(folder / "cases", {"train": 2, "test": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTFM_MACHINE", '{"loader_workers": 0}')
        test_adapt.run(folder, folder / "out", spec=test_adapt.spec(epochs=1))
    return folder / "out"


def scan(folder):
    """Write a scan as a file, and its stored form."""
    (case,) = makers.stored_cases(folder, 1, shape=(32, 32, 32))
    volume = store.open_volume(case.image).load()
    write_nifti(volume, folder / "scan.nii.gz")
    return volume, folder / "scan.nii.gz"


def test_an_adapted_model_is_exported_whole(adapted, tmp_path):
    stage.export(adapted=adapted, out=tmp_path / "net")
    files = {"README.md", "config.json", "model.json", "model.safetensors", "preprocessing.json"}
    assert {p.name for p in (tmp_path / "net").iterdir()} == files
    ours, original = (weights.read_tensors(f / "model.safetensors") for f in (tmp_path / "net", adapted / "model"))
    assert all(torch.equal(ours[key], original[key]) for key in original) and len(ours) == len(original)
    config, about = (read_json(tmp_path / "net" / name) for name in ("config.json", "preprocessing.json"))
    assert (config["out_channels"], config["dsdepth"]) == (len(about["labels"]) + 1, 4)
    assert about["preprocess"]["spacing_mm"] == [2, 2, 2] and about["facts"]["encoder"] == "tiny"
    card = (tmp_path / "net/README.md").read_text()
    assert "2 labelled cases of 'd'" in card and "| 1 | spleen | 1 |" in card and "SegResNet.from_pretrained(" in card
    _, path = scan(tmp_path)
    for model, out in ((adapted / "model", "a"), (tmp_path / "net", "b")):
        predict([path], model=model, out=tmp_path / out)
    assert (tmp_path / "a/scan.nii.gz").read_bytes() == (tmp_path / "b/scan.nii.gz").read_bytes()
    with pytest.raises(UserError, match=r"model\.json: no such file"):
        stage.export(adapted=tmp_path, out=tmp_path / "out")


def test_a_net_of_lighter_zoo_predicts_as_it_does_there(tmp_path):
    lighter_zoo = pytest.importorskip("lighter_zoo", exc_type=ImportError)
    plugin = plugins.get("encoders", "segresnet")
    with seeds.seeded(0):
        net = lighter_zoo.SegResNet(**plugin.hub_config(plugin.Settings(**OPTIONS), 118))
    net.save_pretrained(tmp_path / "net")
    stage.import_weights(job(weights=str(tmp_path / "net")), out=tmp_path / "model", labels="totalsegmentator")
    assert read_json(tmp_path / "model/import.json")["unexpected"] == []
    assert read_json(tmp_path / "model/preprocessing.json")["preprocess"]["spacing_mm"] == [1.5, 1.5, 1.5]
    about = read_json(tmp_path / "model/model.json")
    write_json({**about, "spacing_mm": [2, 2, 2], "patch": [32, 32, 32], "overlap": 0}, tmp_path / "model/model.json")
    volume, path = scan(tmp_path)
    predict([path], model=tmp_path / "model", out=tmp_path / "labels")
    found = nib.load(tmp_path / "labels/scan.nii.gz").get_fdata().transpose(2, 1, 0)
    x = torch.from_numpy((volume.array.astype(np.float32).clip(-1024, 2048) + 1024) / 3072)[None, None]
    with torch.no_grad():
        theirs = net.eval()(x).argmax(1)[0].numpy()
    assert len(np.unique(found)) > 2 and (found == theirs).mean() > 0.999  # memory orders differ by rounding
    small = lighter_zoo.SegResNet(**plugin.hub_config(plugin.Settings(**OPTIONS), 3))
    small.save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match=r"wrong shape: up_layers.0.head.weight \(3, 32, 1, 1, 1\) instead of \(118"):
        stage.import_weights(job(weights=str(tmp_path / "small")), out=tmp_path / "x", labels="totalsegmentator")
    assert not (tmp_path / "x").exists()


def test_other_formats_and_other_networks_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        stage.import_weights(job(weights=str(tmp_path / "nowhere")), out=tmp_path / "out")
    (tmp_path / "model.pt").write_bytes(b"pickled")
    with pytest.raises(
        UserError, match=r"model\.pt: .*unknown format of weights; supported: a folder with config.json"
    ):
        stage.import_weights(job(weights=str(tmp_path / "model.pt")), out=tmp_path / "out")
    stage.import_weights(job(), out=tmp_path / "theirs")
    config = read_json(tmp_path / "theirs/config.json")
    for change in ({"norm": "instance"}, {"init_filters": 16}):
        write_json({**config, **change}, tmp_path / "theirs/config.json")
        with pytest.raises(UserError, match=f"another network than the encoder's options: {next(iter(change))}"):
            stage.import_weights(job(weights=str(tmp_path / "theirs")), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_tensors_are_listed(tmp_path):
    from safetensors.torch import save_file

    stage.import_weights(job(), out=tmp_path / "theirs")
    state = weights.read_tensors(tmp_path / "theirs/model.safetensors")
    state["head.weight"] = state.pop("conv_init.weight")
    save_file(state, tmp_path / "theirs/model.safetensors")
    with pytest.raises(UserError, match=r"64 of 65 tensors match; 1 missing: conv_init.weight;"):
        stage.import_weights(job(weights=str(tmp_path / "theirs")), out=tmp_path / "out")
