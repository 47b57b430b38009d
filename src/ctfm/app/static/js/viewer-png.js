// A viewer whose planes the server draws, for browsers without WebGL 2. The same methods as viewer-gl.js.
import { AXES, inside, pointOf, voxelOf } from "./geometry.js";

// Axes (z, y, x) along rows and columns, and whether the rows run against the axis.
const LAYOUT = { axial: [1, 2, false], coronal: [0, 2, true], sagittal: [0, 1, true] };

export async function open(host, moved) {
  return new Viewer(host, moved);
}

class Viewer {
  constructor(host, moved) {
    this.moved = moved;
    this.view = "all";
    this.box = document.createElement("div");
    this.figures = Object.keys(LAYOUT).map((plane) => this.figure(plane));
    this.box.append(...this.figures);
    host.replaceChildren(this.box);
    new ResizeObserver(() => this.draw()).observe(host);
  }

  figure(plane) {
    const figure = document.createElement("figure");
    figure.dataset.plane = plane;
    const image = new Image();
    image.alt = `${plane} plane`;
    image.draggable = false;
    image.onload = () => this.cross(figure);
    figure.append(image, document.createElement("i"), document.createElement("i"));
    figure.addEventListener("click", (event) => this.clicked(figure, event));
    figure.addEventListener("wheel", (event) => this.wheeled(plane, event), { passive: false });
    return figure;
  }

  async show(scan, window_) {
    this.scan = scan;
    this.window = window_;
    this.heat = null;
  }

  goTo(point) {
    if (!this.scan) return;
    this.voxel = inside(this.scan, voxelOf(this.scan, point));
    this.draw();
  }

  setWindow(window_) {
    this.window = window_;
    this.draw();
  }

  setView(view) {
    this.view = view;
    this.draw();
  }

  async setHeat(heat) {
    this.heat = heat;
    this.draw();
  }

  tuneHeat(look) {
    if (!this.heat) return;
    Object.assign(this.heat, look);
    this.draw();
  }

  draw() {
    if (!this.voxel) return;
    this.box.className = `planes ${this.view === "all" ? "all" : ""}`;
    const [z, y, x] = this.voxel.map(Math.round);
    const asked = { z, y, x, low: this.window[0], high: this.window[1] };
    if (this.heat) {
      const { search, low, high, opacity } = this.heat;
      Object.assign(asked, { search, from: low, to: high, opacity });
    }
    for (const figure of this.figures) {
      const plane = figure.dataset.plane;
      figure.hidden = this.view !== "all" && this.view !== plane;
      const address = `/api/scans/${this.scan.id}/${plane}.png?${new URLSearchParams(asked)}`;
      const [image] = figure.children;
      if (!figure.hidden && image.getAttribute("src") !== address) image.src = address;
      this.cross(figure);
    }
  }

  // Where the picture lies within its box: it keeps its proportions.
  area(figure) {
    const [image] = figure.children;
    const scale = Math.min(figure.clientWidth / image.naturalWidth, figure.clientHeight / image.naturalHeight);
    const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
    return { left: (figure.clientWidth - width) / 2, top: (figure.clientHeight - height) / 2, width, height };
  }

  cross(figure) {
    const [image, across, down] = figure.children;
    if (!image.naturalWidth || figure.hidden || !this.voxel) return;
    const [row, column, upward] = LAYOUT[figure.dataset.plane];
    const { left, top, width, height } = this.area(figure);
    const share = (axis) => (this.voxel[axis] + 0.5) / this.scan.shape[axis];
    const y = top + height * (upward ? 1 - share(row) : share(row));
    const x = left + width * share(column);
    Object.assign(across.style, { left: `${left}px`, width: `${width}px`, top: `${y}px`, height: "1px" });
    Object.assign(down.style, { top: `${top}px`, height: `${height}px`, left: `${x}px`, width: "1px" });
  }

  clicked(figure, event) {
    if (!this.voxel) return;
    const [row, column, upward] = LAYOUT[figure.dataset.plane];
    const { left, top, width, height } = this.area(figure);
    const frame = figure.getBoundingClientRect();
    const across = (event.clientX - frame.left - left) / width;
    const down = (event.clientY - frame.top - top) / height;
    if (across < 0 || across > 1 || down < 0 || down > 1) return;
    const voxel = [...this.voxel];
    voxel[row] = (upward ? 1 - down : down) * this.scan.shape[row] - 0.5;
    voxel[column] = across * this.scan.shape[column] - 0.5;
    this.moveTo(voxel);
  }

  wheeled(plane, event) {
    event.preventDefault();
    const voxel = [...this.voxel];
    voxel[AXES[plane]] += event.deltaY > 0 ? -1 : 1;
    this.moveTo(voxel);
  }

  moveTo(voxel) {
    this.voxel = inside(this.scan, voxel);
    this.draw();
    this.moved(pointOf(this.scan, this.voxel));
  }
}
