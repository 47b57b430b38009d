-- The series that one IDC release lists, with what the newest release knows about them (DuckDB).
--
-- `listing`, `newest` and `prior` are idc_index of the release that is listed, and idc_index and prior_versions_index of
-- the newest one. {statistics} is the release whose instances the criteria judge (supplement S1: 14, listed from 18).
WITH held AS (
  -- A series stood in that release if its present version is no younger, or an earlier version was current then.
  SELECT SeriesInstanceUID FROM newest WHERE series_revised_idc_version <= {statistics}
  UNION
  SELECT SeriesInstanceUID FROM prior WHERE {statistics} BETWEEN min_idc_version AND max_idc_version
),
-- Files move between buckets, but the identifier of a version of a series, which names its folder, never changes.
places AS (
  SELECT crdc_series_uuid, series_aws_url FROM newest
  UNION ALL
  SELECT crdc_series_uuid, min(series_aws_url) FROM prior GROUP BY crdc_series_uuid
)
SELECT
  listing.SeriesInstanceUID,
  listing.StudyInstanceUID,
  listing.PatientID,
  listing.collection_id,
  listing.Modality,
  listing.SeriesDescription,
  listing.instanceCount,
  listing.series_size_MB,
  listing.source_DOI,
  coalesce(places.series_aws_url, listing.series_aws_url) AS series_aws_url,
  places.series_aws_url IS NOT NULL AS place_known,
  -- The licence under which the files are offered now; some were renewed.
  coalesce(newest.license_short_name, listing.license_short_name) AS license_short_name,
  newest.sop_class_name,
  held.SeriesInstanceUID IS NOT NULL AS held
FROM
  listing
LEFT JOIN
  newest ON listing.SeriesInstanceUID = newest.SeriesInstanceUID
LEFT JOIN
  places ON split_part(listing.series_aws_url, '/', 4) = places.crdc_series_uuid
LEFT JOIN
  held ON listing.SeriesInstanceUID = held.SeriesInstanceUID
