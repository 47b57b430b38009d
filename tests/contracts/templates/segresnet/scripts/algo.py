"""The class that MONAI's BundleGen looks for: what the runner's input says replaces what the template has."""

from pathlib import Path

from monai.apps.auto3dseg import BundleAlgo
from monai.bundle import ConfigParser


class SegresnetAlgo(BundleAlgo):
    def fill_template_config(self, data_stats_file, output_path, **kwargs):
        stats = ConfigParser.load_config_file(data_stats_file)
        given = ConfigParser.load_config_file(self.data_list_file)
        given["data_list_file_path"] = given.pop("datalist")
        given |= {"bundle_root": output_path, "analysed": stats["stats_summary"]["n_cases"]}
        path = Path(output_path) / "configs/hyper_parameters.yaml"
        parser = ConfigParser(globals=False)
        parser.read_config(path)
        for key, value in given.items():
            parser[key] = value
        ConfigParser.export_config_file(parser.get(), path, fmt="yaml", default_flow_style=None)
        return {"hyper_parameters.yaml": given}
