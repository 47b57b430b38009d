// Voxels (z, y, x) of a scan and points in LPS mm. A scan's axes are at right angles, so its inverse is a transpose.

export const AXES = { axial: 0, coronal: 1, sagittal: 2 };

export function pointOf({ affine }, [z, y, x]) {
  return [0, 1, 2].map((row) => affine[row][0] * z + affine[row][1] * y + affine[row][2] * x + affine[row][3]);
}

export function voxelOf({ affine }, point) {
  const from = point.map((value, row) => value - affine[row][3]);
  return [0, 1, 2].map((column) => {
    const axis = [0, 1, 2].map((row) => affine[row][column]);
    const squared = axis.reduce((sum, value) => sum + value * value, 0);
    return axis.reduce((sum, value, row) => sum + value * from[row], 0) / squared;
  });
}

export function inside({ shape }, voxel) {
  return voxel.map((value, axis) => Math.min(shape[axis] - 1, Math.max(0, value)));
}

export const middle = (scan) => pointOf(scan, scan.shape.map((count) => Math.floor(count / 2)));

// NiiVue has RAS.
export const turned = ([a, b, c]) => [-a, -b, c];

const named = (value, plus, minus) => `${value < 0 ? minus : plus} ${Math.abs(value).toFixed(0)}`;

export function told([left, posterior, superior]) {
  return `${named(left, "L", "R")}  ${named(posterior, "P", "A")}  ${named(superior, "S", "I")} mm`;
}
