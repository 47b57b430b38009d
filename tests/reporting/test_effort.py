"""Hours, and the energy that is assumed of them."""

from __future__ import annotations

import pytest

from ctfm.reporting.effort import CORE_WATTS, effort, watts

HEAD = "s\tmax_rss\tcpu_time\trule_name\tresources\n"


def benchmark(root, name, seconds, cpu, resources):
    path = root / "benchmarks" / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEAD}{seconds}\t1024\t{cpu}\tadapt_encoder\t{resources}\n")


def test_hours_and_energy_add_up(tmp_path):
    benchmark(tmp_path, "a", 3600, 7200, "{'gpu': 1, 'mem_mb': 4000}")
    benchmark(tmp_path, "b", 1800, 3600, "{'mem_mb': 4000}")
    runs = {
        "adapt/t/ctfm/all-0": {"gpu_hours": 2.0, "hardware": {"device": "NVIDIA H100 80GB HBM3"}},
        "adapt/t/random/all-0": {"gpu_hours": 1.0, "hardware": {"device": "NVIDIA H100 80GB HBM3"}},
        "encoders/ctfm": {"gpu_hours": 0.0, "hardware": {"device": "x86_64"}},
    }
    took = effort(tmp_path, runs)
    assert (took.job_seconds, took.cpu_hours, took.gpu_hours) == (5400, 3, {"NVIDIA H100 80GB HBM3": 3.0})
    assert took.kwh == pytest.approx((3 * 700 + 3 * CORE_WATTS) / 1000)
    assert [row[0] for row in took.rules.rows] == ["adapt_encoder"]
    assert took.rules.rows[0][5] == "1.00"  # one GPU reserved for an hour
    assert took.energy.rows[0] == ["GPU: NVIDIA H100 80GB HBM3", "3.00", "700", "2.100"]
    assert took.energy.rows[-1][1] == "2,304"


def test_without_benchmarks_nothing_is_made_up(tmp_path):
    took = effort(tmp_path, {})
    assert took.job_seconds == took.cpu_hours == took.kwh == 0
    assert took.rules.rows == []


@pytest.mark.parametrize(
    ("name", "power"),
    [("NVIDIA H100 PCIe", 350), ("NVIDIA H100 80GB HBM3", 700), ("Quadro RTX 8000", 295), ("of another make", 300)],
)
def test_board_power_goes_by_the_name(name, power):
    assert watts(name) == power
