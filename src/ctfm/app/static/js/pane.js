// One scan on the page: its viewer, its slice slider, its line of place, HU and organ, and its keys.
import * as api from "./api.js";
import { AXES, inside, middle, pointOf, told, voxelOf } from "./geometry.js";

const STEPS = {
  ArrowUp: [1, 0, 0], ArrowDown: [-1, 0, 0], PageUp: [10, 0, 0], PageDown: [-10, 0, 0],
  ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1],
};
const SHIFTED = { ...STEPS, ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0] };
const ASKED_AFTER_MS = 60;

export const element = (id) => document.getElementById(id);

export class Pane {
  // moved(point): somebody has moved the cross-hair here; entered(): Enter was pressed.
  constructor(name, viewers, { moved, entered }) {
    this.moved = moved;
    this.host = element(`${name}-view`);
    this.slider = element(`${name}-slice`);
    this.sliderTold = element(`${name}-slice-told`);
    this.where = element(`${name}-where`);
    this.viewers = viewers;
    this.slider.addEventListener("input", () => this.slid());
    this.host.addEventListener("keydown", (event) => this.pressed(event, entered), { capture: true });
  }

  async open() {
    this.viewer = await this.viewers.open(this.host, (point) => this.movedTo(point));
  }

  // Shows a scan; another call before it is read replaces it.
  async show(id, looks) {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    this.host.classList.remove("failed");
    this.host.classList.add("busy");
    this.scan = null;
    try {
      const scan = await api.scan(id);
      if (turn !== this.turn) return false;
      await this.viewer.show(scan, looks.window);
      if (turn !== this.turn) return false;
      this.scan = scan;
      this.heat = null;
      this.host.dataset.scan = id;
      this.setView(looks.view);
      this.goTo(middle(scan));
      return true;
    } catch (error) {
      if (turn === this.turn) this.host.classList.add("failed");
      throw error;
    } finally {
      if (turn === this.turn) this.host.classList.remove("busy");
    }
  }

  setView(view) {
    this.view = view;
    this.viewer.setView(view);
    this.slide();
  }

  setWindow(window_) {
    this.viewer.setWindow(window_);
  }

  async setHeat(heat) {
    this.heat = heat;
    await this.viewer.setHeat(heat);
  }

  goTo(point) {
    if (!this.scan) return;
    this.point = point;
    this.viewer.goTo(point);
    this.slide();
    this.tell();
  }

  movedTo(point) {
    if (!this.scan) return;
    this.point = point;
    this.slide();
    this.tell();
    this.moved(point);
  }

  get axis() {
    return AXES[this.view] ?? 0;
  }

  get voxel() {
    return inside(this.scan, voxelOf(this.scan, this.point));
  }

  slide() {
    if (!this.scan || !this.point) return;
    const last = this.scan.shape[this.axis] - 1;
    const number = Math.round(this.voxel[this.axis]);
    Object.assign(this.slider, { max: last, value: number });
    this.sliderTold.textContent = `${number + 1} of ${last + 1}`;
  }

  slid() {
    const voxel = this.voxel;
    voxel[this.axis] = Number(this.slider.value);
    this.moveTo(voxel);
  }

  moveTo(voxel) {
    const point = pointOf(this.scan, inside(this.scan, voxel));
    this.goTo(point);
    this.moved(point);
  }

  // Up and down go through the slices of the plane shown; the other keys move within axial planes.
  pressed(event, entered) {
    if (event.ctrlKey || event.altKey || event.metaKey || !this.scan) return;
    const step = (event.shiftKey ? SHIFTED : STEPS)[event.key];
    if (event.key === "Enter") entered();
    else if (step && step[0] && !event.shiftKey) this.moveTo(this.voxel.with(this.axis, this.voxel[this.axis] + step[0]));
    else if (step) this.moveTo(this.voxel.map((value, axis) => value + step[axis]));
    else if (event.key === "Home" || event.key === "End")
      this.moveTo(this.voxel.with(this.axis, event.key === "Home" ? 0 : this.scan.shape[this.axis] - 1));
    else return event.key === "Tab" ? undefined : event.stopPropagation(); // NiiVue's own keys would change the view
    event.preventDefault();
    event.stopPropagation();
  }

  tell() {
    clearTimeout(this.timer);
    this.asked?.abort();
    this.timer = setTimeout(async () => {
      const asked = (this.asked = new AbortController());
      try {
        const found = await api.at(this.scan.id, this.point, asked.signal);
        if (!asked.signal.aborted) this.write(found);
      } catch {
        // a newer point is on its way, or the search bar tells that the server is gone
      }
    }, ASKED_AFTER_MS);
  }

  write({ hu, organ }) {
    this.organ = organ;
    const name = document.createElement("b");
    name.textContent = organ ? organ.replaceAll("_", " ") : "";
    this.where.replaceChildren(`${told(this.point)}${hu === null ? "" : `  ·  ${hu} HU`}${organ ? "  ·  " : ""}`, name);
    this.host.dispatchEvent(new CustomEvent("told"));
  }
}
