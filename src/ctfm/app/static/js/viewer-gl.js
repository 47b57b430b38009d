// A viewer drawn by NiiVue with WebGL 2. It has the same methods as that of viewer-png.js.
import { turned } from "./geometry.js";

const COLOURS = "inferno";
const OPTIONS = {
  backColor: [0, 0, 0, 1],
  crosshairColor: [0.49, 0.77, 0.94, 0.7],
  crosshairWidth: 1,
  crosshairWidthUnit: "mm",
  crosshairGap: 6,
  dragAndDropEnabled: false,
  isRadiologicalConvention: true,
  sagittalNoseLeft: true,
  multiplanarShowRender: 0,
  loadingText: "",
  viewModeHotKey: "",
  clipPlaneHotKey: "",
  show3Dcrosshair: false,
};

function script(address) {
  return new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.src = address;
    element.onload = resolve;
    element.onerror = () => reject(new Error("the viewer can't be loaded"));
    document.head.append(element);
  });
}

export async function open(host, moved) {
  if (!window.niivue) await script("/static/vendor/niivue/niivue.umd.js");
  const canvas = document.createElement("canvas");
  host.replaceChildren(canvas);
  const nv = new window.niivue.Niivue(OPTIONS);
  await nv.attachToCanvas(canvas);
  canvas.tabIndex = -1; // keys belong to what holds it
  return new Viewer(nv, moved);
}

class Viewer {
  constructor(nv, moved) {
    this.nv = nv;
    this.kinds = {
      all: nv.sliceTypeMultiplanar,
      axial: nv.sliceTypeAxial,
      coronal: nv.sliceTypeCoronal,
      sagittal: nv.sliceTypeSagittal,
    };
    nv.onLocationChange = ({ mm }) => this.ready && !this.quiet && moved(turned(mm));
  }

  async show(scan, [low, high]) {
    this.ready = false;
    await this.nv.loadVolumes([
      { url: `/api/scans/${scan.id}/shown.nii`, name: "scan.nii", colormap: "gray", cal_min: low, cal_max: high },
    ]);
    this.ready = true;
  }

  goTo(point) {
    if (!this.ready) return;
    this.quiet = true;
    this.nv.scene.crosshairPos = this.nv.mm2frac(turned(point));
    this.nv.drawScene();
    this.quiet = false;
  }

  setWindow([low, high]) {
    if (!this.nv.volumes.length) return;
    Object.assign(this.nv.volumes[0], { cal_min: low, cal_max: high });
    this.nv.updateGLVolume();
  }

  setView(view) {
    this.nv.setSliceType(this.kinds[view]);
  }

  async setHeat(heat) {
    for (const old of this.nv.volumes.slice(1)) this.nv.removeVolume(old);
    if (!heat) return;
    await this.nv.addVolumeFromUrl({
      url: heat.url,
      name: "heat.nii",
      colormap: COLOURS,
      cal_min: heat.low,
      cal_max: heat.high,
      opacity: heat.opacity,
    });
  }

  tuneHeat({ low, high, opacity }) {
    if (this.nv.volumes.length < 2) return;
    Object.assign(this.nv.volumes[1], { cal_min: low, cal_max: high, opacity });
    this.nv.updateGLVolume();
  }
}
