-- Choice of CT series from a table with the columns of idc-index (DuckDB).
--
-- One row comes out for every series of the modality; `dropped_at` is the number of the step that drops it (src/ctfm/idc/options.py), 99
-- when none does. The program makes the view `source` (columns that an index may lack are null there) and gives the
-- $parameters. A null parameter switches its step off. What the index can't tell is kept: the headers decide it when
-- the series is read.
WITH told AS (
  SELECT
    * REPLACE (
      TRY_CAST(instanceCount AS BIGINT) AS instanceCount,
      nullif(TRY_CAST(series_size_MB AS DOUBLE), 'nan') AS series_size_MB,
      coalesce(TRY_CAST(headers_known AS BOOLEAN), false) AS headers_known
    ),
    -- The slice thickness in mm that a column tells, or the description of the series.
    --   nlst:        fields separated by commas; the seventh is the thickness, 999 where it is unknown
    --   phantom_fda: 'SliceTh-0.75'
    --   others:      '5.0 mm', '.625mm', '0,6 MM', or the style 'Thorax 1.5 B31f'
    nullif(coalesce(
      TRY_CAST(SliceThickness AS DOUBLE),
      CASE collection_id
        WHEN 'nlst' THEN nullif(TRY_CAST(split_part(SeriesDescription, ',', 7) AS DOUBLE), 999)
        WHEN 'phantom_fda' THEN TRY_CAST(regexp_extract(SeriesDescription, 'SliceTh-([0-9.]+)', 1) AS DOUBLE)
        ELSE coalesce(
          TRY_CAST(replace(regexp_extract(lower(SeriesDescription), '(\d*[.,]?\d+)\s*mm', 1), ',', '.') AS DOUBLE),
          TRY_CAST(regexp_extract(SeriesDescription, '\s(\d+[.]\d+)\s+[A-Z]\d\d[a-z]', 1) AS DOUBLE)
        )
      END
    ), 'nan') AS told_thickness,
    -- The second field of nlst is the image type in letters (OPA, OPL, DSA); the last one is L for a localizer.
    CASE collection_id
      WHEN 'nlst' THEN split_part(SeriesDescription, ',', 2) LIKE '%L'
      ELSE regexp_matches(lower(SeriesDescription), 'scout|locali[sz]er|topogram|surview|scanogram|scano')
    END AS told_localizer
  FROM source
  WHERE $modality IS NULL OR Modality = $modality
),
-- Known headers replace what was told.
known AS (
  SELECT
    * REPLACE (
      CASE WHEN headers_known THEN TRY_CAST(slice_thickness_min AS DOUBLE) ELSE told_thickness END
        AS slice_thickness_min,
      CASE WHEN headers_known THEN TRY_CAST(slice_thickness_max AS DOUBLE) ELSE told_thickness END
        AS slice_thickness_max,
      CASE WHEN headers_known THEN TRY_CAST(localizer AS BOOLEAN) ELSE told_localizer END AS localizer
    ),
    -- Licences that allow commercial use; one that is not listed here does not.
    coalesce(regexp_full_match(license_short_name, '(?i)CC(0| BY| BY-SA)( \d[.]\d)?'), false) AS commercial
  FROM told
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
      WHEN NOT coalesce(TRY_CAST(held AS BOOLEAN), true) THEN 3
      WHEN coalesce(instanceCount < $min_instances, true) THEN 4
      WHEN coalesce(sop_class_name <> $sop_class, false) THEN 5
      WHEN coalesce($exclude_localizers AND localizer, false) THEN 6
      WHEN coalesce(slice_thickness_min < $thickness_low OR slice_thickness_max > $thickness_high, false) THEN 7
      WHEN coalesce($unique_positions AND NOT TRY_CAST(unique_positions AS BOOLEAN), false) THEN 8
      WHEN $commercial AND NOT commercial THEN 9
      WHEN coalesce(collection_id IN (SELECT unnest($downstream::VARCHAR[])), false) THEN 10
      ELSE 99
    END AS dropped_at
  FROM known
),
-- Random subsets: those with the smallest digests of seed and name, so that the order of rows plays no part.
of_drawn_patients AS (
  SELECT
    * REPLACE (
      CASE
        WHEN dropped_at = 99 AND dense_rank() OVER (
          PARTITION BY dropped_at, collection_id ORDER BY sha256($seed || ':' || PatientID), PatientID
        ) > $patients_per_collection THEN 11
        ELSE dropped_at
      END AS dropped_at
    )
  FROM judged
),
drawn AS (
  SELECT
    * REPLACE (
      CASE
        WHEN dropped_at = 99 AND row_number() OVER (
          PARTITION BY dropped_at ORDER BY sha256($seed || ':' || SeriesInstanceUID), SeriesInstanceUID
        ) > $max_series THEN 12
        ELSE dropped_at
      END AS dropped_at
    )
  FROM of_drawn_patients
)
SELECT
  SeriesInstanceUID,
  StudyInstanceUID,
  PatientID,
  collection_id,
  instanceCount AS num_instances,
  slice_thickness_min,
  slice_thickness_max,
  series_size_MB,
  series_aws_url,
  license_short_name AS license,
  -- The digest of a series alone gives its shard, so a new series moves no other.
  ('0x' || substr(sha256(SeriesInstanceUID), 1, 8))::BIGINT % $shards AS shard,
  source_DOI,
  commercial,
  coalesce(TRY_CAST(place_known AS BOOLEAN), true) AS place_known,
  dropped_at
FROM drawn
