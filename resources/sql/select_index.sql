-- Choice of CT series from a table with the columns of idc-index (DuckDB).
--
-- One row comes out for every series of the modality; `dropped_at` is the number of the step that drops it, 99 when
-- none does. The program makes the view `source` (columns that an index may lack are null there) and gives the
-- $parameters. A null parameter switches its step off. What the index can't tell is kept: the headers decide it when
-- the series is read.
WITH told AS (
  SELECT
    *,
    -- The slice thickness in mm: a column, or what the description of the series says.
    --   nlst:        fields separated by commas; the seventh is the thickness
    --   phantom_fda: 'SliceTh-0.75'
    --   others:      '5.0 mm', or the style 'Thorax 1.5 B31f'
    nullif(coalesce(
      TRY_CAST(SliceThickness AS DOUBLE),
      CASE collection_id
        WHEN 'nlst' THEN TRY_CAST(split_part(SeriesDescription, ',', 7) AS DOUBLE)
        WHEN 'phantom_fda' THEN TRY_CAST(regexp_extract(SeriesDescription, 'SliceTh-([0-9.]+)', 1) AS DOUBLE)
        ELSE coalesce(
          TRY_CAST(regexp_extract(lower(SeriesDescription), '(\d+(?:[.]\d+)?)\s*mm', 1) AS DOUBLE),
          TRY_CAST(regexp_extract(SeriesDescription, '\s(\d+[.]\d+)\s+[A-Z]\d\d[a-z]', 1) AS DOUBLE)
        )
      END
    ), 'nan') AS thickness,
    -- The second field of nlst is the image type in letters (OPA, OPL, DSA); the last one is L for a localizer.
    CASE collection_id
      WHEN 'nlst' THEN split_part(SeriesDescription, ',', 2) LIKE '%L'
      ELSE regexp_matches(lower(SeriesDescription), 'scout|locali[sz]er|topogram|surview|scanogram|scano')
    END AS localizer
  FROM source
  WHERE $modality IS NULL OR Modality = $modality
),
judged AS (
  SELECT
    *,
    CASE
      WHEN $collections IS NOT NULL
        AND coalesce(collection_id, '') NOT IN (SELECT unnest($collections::VARCHAR[])) THEN 2
      WHEN $exclude_collections IS NOT NULL
        AND coalesce(collection_id, '') IN (SELECT unnest($exclude_collections::VARCHAR[])) THEN 2
      WHEN $series IS NOT NULL
        AND SeriesInstanceUID NOT IN (SELECT unnest($series::VARCHAR[])) THEN 2
      WHEN coalesce(TRY_CAST(instanceCount AS BIGINT) < $min_instances, true) THEN 3
      WHEN coalesce(sop_class_name <> $sop_class, false) THEN 4
      WHEN coalesce($exclude_localizers AND localizer, false) THEN 5
      WHEN coalesce(thickness NOT BETWEEN $thickness_low AND $thickness_high, false) THEN 6
      ELSE 99
    END AS dropped_at
  FROM told
),
-- A random subset: those with the smallest digests of seed and UID, so that the order of rows plays no part.
drawn AS (
  SELECT SeriesInstanceUID AS drawn_uid
  FROM judged
  WHERE dropped_at = 99
  ORDER BY sha256($seed || ':' || SeriesInstanceUID), SeriesInstanceUID
  LIMIT coalesce($max_series, 9223372036854775807)
)
SELECT
  SeriesInstanceUID,
  StudyInstanceUID,
  PatientID,
  collection_id,
  TRY_CAST(instanceCount AS BIGINT) AS num_instances,
  -- One value for the whole series is all that an index tells.
  thickness AS slice_thickness_min,
  thickness AS slice_thickness_max,
  nullif(TRY_CAST(series_size_MB AS DOUBLE), 'nan') AS series_size_MB,
  series_aws_url,
  license_short_name AS license,
  -- The digest of a series alone gives its shard, so a new series moves no other.
  ('0x' || substr(sha256(SeriesInstanceUID), 1, 8))::BIGINT % $shards AS shard,
  CASE
    WHEN dropped_at = 99 AND SeriesInstanceUID NOT IN (SELECT drawn_uid FROM drawn) THEN 7
    ELSE dropped_at
  END AS dropped_at
FROM judged
