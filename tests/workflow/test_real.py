"""Real CT through the main job: DICOM on a loopback S3, fetched with s5cmd, to volumes, training and a report."""

from __future__ import annotations

from pathlib import Path

import boto3
import pandas as pd
import pytest
import yaml
from moto.server import ThreadedMotoServer

from ctfm.idc.folder import index_folder
from ctfm.imaging import store

pytestmark = pytest.mark.workflow
GOOD = {"head_axial_1mm", "head_axial_5mm", "head_tilt_stereotaxis", "head_tilt_uneven_spacing", "trunk_jpeg2000"}
REFUSED = {"localizer", "exam_summary", "mr_not_ct"}


@pytest.fixture
def bucket():
    """Yield (endpoint, client) of an S3 server on loopback."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_bucket(Bucket="scans", ACL="public-read")
    yield endpoint, client
    server.stop()


def serve(client, root: Path) -> pd.DataFrame:
    """Upload every series and return an index of them that points at the bucket."""
    index = index_folder(root)
    for row in index.itertuples():
        folder = root / Path(row.series_aws_url.removeprefix("file:")).parent
        for file in folder.iterdir():
            client.upload_file(
                str(file), "scans", f"{row.SeriesInstanceUID}/{file.name}", ExtraArgs={"ACL": "public-read"}
            )
    index["series_aws_url"] = "s3://scans/" + index["SeriesInstanceUID"] + "/*"
    return index


def test_good_series_become_volumes_and_bad_ones_say_why(fresh, bucket, shared_data):
    endpoint, client = bucket
    index = serve(client, shared_data / "dicom")
    names = {
        row.SeriesInstanceUID: Path(row.series_aws_url.removeprefix("file:")).parts[0]
        for row in index_folder(shared_data / "dicom").itertuples()
    }
    index.to_parquet(fresh.folder / "index.parquet")
    (fresh.folder / "real.yaml").write_text(yaml.safe_dump(configuration(endpoint)))
    fresh.run(configs=("real.yaml",))
    table = pd.read_parquet(fresh.folder / "results/real/volumes/real/index.parquet")
    table["name"] = table["SeriesInstanceUID"].map(names)
    assert set(table[table["status"] == "ok"]["name"]) == GOOD
    refused = table[table["status"] == "quarantined"]
    assert set(refused["name"]) == REFUSED and refused["reason"].ne("").all()
    assert table["reason"][table["name"] == "localizer"].tolist() == ["localizer"]
    assert table["reason"][table["name"] == "mr_not_ct"].tolist() == ["not_ct"]
    for path in table[table["status"] == "ok"]["path"]:
        volume = store.open_volume(fresh.folder / "results/real/volumes/real" / path).load()
        assert volume.spacing == pytest.approx((3, 1, 1)) and volume.array.dtype == "int16"
    assert not list((fresh.folder / "results/real/volumes").rglob("*.dcm"))
    metrics = pd.read_csv(fresh.folder / "results/real/encoders/ctfm/metrics.csv")
    assert metrics["loss"].notna().all() and len(metrics) == 2
    assert "localizer" in (fresh.folder / "results/real/report/report.html").read_text()


def configuration(endpoint: str) -> dict:
    """Return the run: everything in the index, few slices allowed, a few steps of pre-training."""
    small = {"init_filters": 8, "blocks_down": [1, 1, 1, 1, 1]}
    return {
        "outdir": "results/real",
        "corpora": {
            "real": {
                "index": "index.parquet",
                "modality": None,
                "min_instances": 1,
                "thickness_mm": None,
                "exclude_localizers": False,
                "shards": 2,
            }
        },
        "prepare": {"min_slices": 10},
        "pretrain": {
            "ctfm": {
                "corpus": "real",
                "encoder_options": small,
                "epochs": 2,
                "steps_per_epoch": 2,
                "global_batch": 2,
                "crops_per_scan": 4,
                "patch": [16, 64, 64],
            }
        },
        "machine": {"endpoint_url": endpoint, "loader_workers": 0},
    }
