-- The paper's choice of CT series (supplement S1), in BigQuery's dialect; translated by sqlglot it runs on DuckDB too.
-- For the BigQuery console put a number in place of each of the two parameters in braces:
--   statistics_release   the IDC release whose instances are judged (S1: 14)
--   listing_release      the IDC release that the series are listed and fetched from (S1: 18; the published code: 14)
--
-- Joins, predicates and grouping are those of S1. Mended faults of its print: WTTH is WITH; underscores were lost in
-- idc_instances_per_series (after JOIN and ON, and before max_SliceThickness and num_instances), in dicom_all (after
-- ON), and in max_SliceThickness, num_instances and has_localizer (WHERE); and the last GROUP BY names the table, since
-- both have a SeriesInstanceUID.
-- Changed: MIN stands for ANY_VALUE, so that every run and engine gives the same value. Added: what the download needs.
WITH
idc_instances_per_series AS (
  SELECT
    SeriesInstanceUID,
    COUNT(DISTINCT(SOPInstanceUID)) AS num_instances,
    COUNT(DISTINCT(ARRAY_TO_STRING(ImagePositionPatient, "/"))) AS position_count,
    MAX(SAFE_CAST(SliceThickness AS float64)) AS max_SliceThickness,
    MIN(SAFE_CAST(SliceThickness AS float64)) AS min_SliceThickness,
    -- "true", "false", or both in one string when only some instances are localizers
    STRING_AGG(DISTINCT(SAFE_CAST("LOCALIZER" IN UNNEST(ImageType) AS string)), "") AS has_localizer
  FROM
    `bigquery-public-data.idc_v{statistics_release}.dicom_all`
  WHERE
    Modality = "CT"
    AND access = "Public"
  GROUP BY
    SeriesInstanceUID
),
-- Not in S1: the files of a series and their size; a file that stands in several rows is counted once.
files_per_series AS (
  SELECT
    SeriesInstanceUID,
    COUNT(*) AS file_count,
    SUM(SAFE_CAST(instance_size AS float64)) / 1000000 AS size_MB
  FROM (
    SELECT DISTINCT
      SeriesInstanceUID,
      aws_url,
      instance_size
    FROM
      `bigquery-public-data.idc_v{listing_release}.dicom_all`
  )
  GROUP BY
    SeriesInstanceUID
)
SELECT
  dicom_all.SeriesInstanceUID,
  MIN(dicom_all.collection_id) AS collection_id,
  MIN(dicom_all.PatientID) AS PatientID,
  MIN(idc_instances_per_series.num_instances) AS num_instances,
  MIN(CONCAT("https://viewer.imaging.datacommons.cancer.gov/viewer/", dicom_all.StudyInstanceUID,
    "?seriesInstanceUID=", dicom_all.SeriesInstanceUID)) AS idc_url,
  -- Not in S1; the names are those of idc-index.
  MIN(dicom_all.StudyInstanceUID) AS StudyInstanceUID,
  MIN(dicom_all.Modality) AS Modality,
  MIN(dicom_all.SeriesDescription) AS SeriesDescription,
  MIN(dicom_all.license_short_name) AS license_short_name,
  MIN(dicom_all.source_DOI) AS source_DOI,
  MIN(CONCAT("s3://", SPLIT(dicom_all.aws_url, "/")[SAFE_OFFSET(2)], "/", dicom_all.crdc_series_uuid, "/*"))
    AS series_aws_url,
  MIN(files_per_series.file_count) AS instanceCount,
  MIN(files_per_series.size_MB) AS series_size_MB,
  MIN(idc_instances_per_series.min_SliceThickness) AS slice_thickness_min,
  MIN(idc_instances_per_series.max_SliceThickness) AS slice_thickness_max
FROM
  `bigquery-public-data.idc_v{listing_release}.dicom_all` AS dicom_all
JOIN
  idc_instances_per_series
ON
  dicom_all.SeriesInstanceUID = idc_instances_per_series.SeriesInstanceUID
JOIN
  files_per_series
ON
  dicom_all.SeriesInstanceUID = files_per_series.SeriesInstanceUID
WHERE
  idc_instances_per_series.min_SliceThickness >= 1
  AND idc_instances_per_series.max_SliceThickness <= 5
  AND idc_instances_per_series.num_instances > 50
  AND idc_instances_per_series.num_instances / idc_instances_per_series.position_count = 1
  AND has_localizer = "false"
GROUP BY
  dicom_all.SeriesInstanceUID
