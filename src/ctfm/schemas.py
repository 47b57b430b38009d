"""The columns of every table artifact, by the table's name."""

from __future__ import annotations

import pyarrow as pa

TEXT, INT, REAL = pa.string(), pa.int64(), pa.float64()
REALS, INTS = pa.list_(REAL), pa.list_(INT)

SCHEMAS = {
    # select/<corpus>/
    "series": pa.schema(
        {
            "SeriesInstanceUID": TEXT,
            "StudyInstanceUID": TEXT,
            "PatientID": TEXT,
            "collection_id": TEXT,
            "num_instances": INT,
            "slice_thickness_min": REAL,
            "slice_thickness_max": REAL,
            "series_size_MB": REAL,
            "series_aws_url": TEXT,
            "license": TEXT,
            "shard": INT,
        }
    ),
    "funnel": pa.schema({"step": TEXT, "series": INT, "studies": INT, "patients": INT}),
    "collections": pa.schema({"collection_id": TEXT, "series": INT, "paper_series": INT, "license": TEXT}),
    "licenses": pa.schema(
        {"license": TEXT, "commercial": pa.bool_(), "series": INT, "studies": INT, "patients": INT, "size_TB": REAL}
    ),
    # Collections of the selection that downstream evaluations use too.
    "overlap": pa.schema(
        {"collection_id": TEXT, "used_for": TEXT, "series": INT, "patients": INT, "excluded": pa.bool_()}
    ),
    # volumes/<corpus>/; its funnel.parquet goes on where that of the selection ends
    "volumes": pa.schema(
        {
            "SeriesInstanceUID": TEXT,
            "StudyInstanceUID": TEXT,
            "PatientID": TEXT,
            "collection_id": TEXT,
            "shard": INT,
            "status": TEXT,  # ok, quarantined
            "reason": TEXT,  # short code, empty when ok
            "detail": TEXT,
            "path": TEXT,  # relative to volumes/<corpus>/
            "shape": INTS,  # z, y, x
            "spacing_in": REALS,  # z, y, x, mm
            "spacing_out": REALS,
            "hu_percentiles": REALS,  # 0.5, 5, 50, 95, 99.5 %
            "bytes": INT,
            "sha256": TEXT,
            "seconds": REAL,  # null where a volume of an interrupted run was kept
            "converter": TEXT,  # own, dicom2nifti; null when quarantined
        }
    ),
    # volumes/<corpus>/: a seeded sample read by the other converter too
    "cross_checks": pa.schema(
        {
            "SeriesInstanceUID": TEXT,
            "shard": INT,
            "status": TEXT,  # agrees, differs, refused
            "voxels": INT,  # compared, before resampling
            "differing": INT,  # by more than 1 HU
            "max_difference_HU": REAL,
            "detail": TEXT,
        }
    ),
    # datasets/<dataset>/
    "cases": pa.schema(
        {
            "case": TEXT,
            "patient": TEXT,
            "split": TEXT,  # train, val, test; empty when excluded
            "status": TEXT,  # ok, excluded
            "reason": TEXT,
            "detail": TEXT,
            "image": TEXT,  # relative to datasets/<dataset>/
            "label": TEXT,
            "shape": INTS,
            "spacing": REALS,
            "labels": pa.list_(TEXT),  # names of the labels present
            "empty": pa.list_(TEXT),  # names of those that the data set annotates and this case does not show
            "overlap_voxels": INT,  # claimed by more than one mask, before resampling
            "age": REAL,  # years; null where the data set doesn't say
            "sex": TEXT,  # f, m; empty where the data set doesn't say
        }
    ),
    # adapt/<task>/<encoder>/<shots>-<seed>/predictions/points.parquet: scans placed on a plane
    "points": pa.schema({"case": TEXT, "label": TEXT, "perplexity": REAL, "x": REAL, "y": REAL}),
    # adapt/<task>/<encoder>/<shots>-<seed>/predictions/<case>.parquet: where a target looks most like each query
    "matches": pa.schema(
        {
            "query": TEXT,  # the scan that asks
            "label": TEXT,  # the organ it asks for
            "similarity": REAL,  # cosine
            "l_mm": REAL,  # centre of the patch, LPS mm
            "p_mm": REAL,
            "s_mm": REAL,
            "similarities": REALS,  # of all patches, in the order of the grid; of what figures show alone
        }
    ),
    # adapt/<task>/<encoder>/<shots>-<seed>/predictions/<pair>.patches.parquet: the patches of a repeated scan
    "patch_pairs": pa.schema(
        {
            "case": TEXT,
            "comparison": TEXT,  # registered, unregistered; random: another person, middle on middle
            "patch": INT,
            "x_mm": REAL,  # centre, LPS, of the first scan
            "y_mm": REAL,
            "z_mm": REAL,
            "common": REAL,  # share of the patch that the second scan shows
            "body": REAL,  # share of the patch that is above -500 HU in the first scan
            "counted": pa.bool_(),  # both are enough
            "cosine": REAL,
            "mse": REAL,
        }
    ),
    # adapt/<task>/<encoder>/<shots>-<seed>/predictions/components.parquet: patches of scans, as colours
    "components": pa.schema(
        {"case": TEXT, "patch": INT, "left_mm": REAL, "posterior_mm": REAL, "superior_mm": REAL}  # its centre
        | {"component_1": REAL, "component_2": REAL, "component_3": REAL, "foreground": pa.bool_()}
        | {"lightness": REAL, "a": REAL, "b": REAL}  # CIELAB; null in the background
    ),
    # probe/<encoder>/
    "scores": pa.schema(
        {
            "encoder": TEXT,
            "checkpoint": TEXT,
            "epoch": INT,
            "step": INT,
            "shots": INT,
            "seed": INT,
            "metric": TEXT,
            "value": REAL,
        }
    ),
    "probe_cases": pa.schema(
        {
            "checkpoint": TEXT,
            "epoch": INT,
            "seed": INT,
            "case_id": TEXT,
            "patient": TEXT,
            "label": TEXT,
            "group": TEXT,
            "metric": TEXT,
            "value": REAL,
            "note": TEXT,
        }
    ),
    # embed/<dataset>/<encoder>.parquet
    "embeddings": pa.schema(
        {
            "case": TEXT,
            "patch": pa.int32(),  # from 0 on; -1: the whole scan, or an organ of it
            # of the patch, mm from the outer corner of the first voxel of the scan at the encoder's spacing, turned
            # to (S, P, L); of all that was embedded, in the rows of scans and organs
            "z0_mm": REAL,
            "y0_mm": REAL,
            "x0_mm": REAL,
            "z1_mm": REAL,
            "y1_mm": REAL,
            "x1_mm": REAL,
            "label": TEXT,  # name of the organ, else empty
            "encoder": TEXT,
            "model": TEXT,  # of the weights: the first digits of the SHA-256 of model.safetensors
            "code": TEXT,
            "sha256": TEXT,  # of the input
            "embedding": pa.list_(pa.float32()),  # as many in each row
        }
    ),
    # embed/<dataset>/<encoder>.failures.parquet
    "embedding_failures": pa.schema({"case": TEXT, "reason": TEXT, "detail": TEXT}),
    # evaluate/<task>/<encoder>/<shots>-<seed>.parquet
    "metrics": pa.schema(
        {
            "task": TEXT,
            "dataset": TEXT,
            "encoder": TEXT,
            "shots": TEXT,
            "seed": INT,
            "split_hash": TEXT,
            "case_id": TEXT,
            "patient": TEXT,
            "label": TEXT,
            "group": TEXT,
            "metric": TEXT,
            "value": REAL,
            "note": TEXT,
        }
    ),
    # slices/<task>/<encoder>/<shots>-<seed>.parquet: planes that figures show; empty for tasks that have none
    "slices": pa.schema(
        {
            "task": TEXT,
            "dataset": TEXT,
            "encoder": TEXT,
            "shots": TEXT,
            "seed": INT,
            "case_id": TEXT,
            "patient": TEXT,
            "label": TEXT,  # the label or group that truth and prediction are of
            "plane": TEXT,  # axial, coronal, sagittal
            "rows": INT,
            "columns": INT,
            "row_mm": REAL,  # distance of rows
            "column_mm": REAL,
            "image": INTS,  # HU, row by row, as shown by custom (ctfm.imaging.pictures.planes)
            "truth": INTS,  # 1 within the label
            "prediction": INTS,
            "heat": REALS,  # what is laid over the image instead of a prediction; NaN: nothing
            "mark": INTS,  # row and column of a point
        }
    ),
    # evaluate/<task>/summary.parquet
    "summary": pa.schema(
        {
            "task": TEXT,
            "dataset": TEXT,
            "encoder": TEXT,
            "reference": TEXT,  # empty, or the encoder that a paired difference is taken against
            "shots": TEXT,
            "seeds": INT,
            "group": TEXT,
            "metric": TEXT,
            "estimate": REAL,
            "low": REAL,
            "high": REAL,
            "n": INT,  # patients
            "method": TEXT,  # ours, published definition, quoted
            "p_value": REAL,  # Wilcoxon signed-rank over patients
            "p_holm": REAL,  # the same, adjusted over the tests of the metric at one level (all, groups, labels)
            "seed_estimates": REALS,  # the estimate of each training seed alone
            "seed_low": REAL,  # Student's t interval over training seeds
            "seed_high": REAL,
            "paper": REAL,
            "note": TEXT,
        }
    ),
}
