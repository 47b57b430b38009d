-- The series listed, with what ct_index and volume_geometry_index of idc-index-data say of their headers (DuckDB).
-- A series without a row in them keeps what is there.
SELECT
  listed.* EXCLUDE (slice_thickness_min, slice_thickness_max, localizer, unique_positions, headers_known),
  -- One instance speaks for the series, so the smallest and the largest are the same.
  ct.SliceThickness AS slice_thickness_min,
  ct.SliceThickness AS slice_thickness_max,
  list_contains(ct.ImageType, 'LOCALIZER') AS localizer,
  geometry.unique_slice_positions AS unique_positions,
  ct.SeriesInstanceUID IS NOT NULL AS headers_known
FROM
  listed
LEFT JOIN
  ct ON listed.SeriesInstanceUID = ct.SeriesInstanceUID
LEFT JOIN
  geometry ON listed.SeriesInstanceUID = geometry.SeriesInstanceUID
