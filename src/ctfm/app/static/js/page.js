// The page: choose scans and a point, search, look at what was found.
import * as api from "./api.js";
import { told } from "./geometry.js";
import { Pane, element } from "./pane.js";

const POLL_MS = 250;
const page = { scans: [], chosen: new Set(), job: null, query: null, results: [], match: null };

// ---- what is shown, and how

function looks() {
  const form = new FormData(element("looks"));
  return { window: form.get("window").split(",").map(Number), view: form.get("view") };
}

function heatLook(result) {
  const low = result.quantiles[100 - Number(element("top").value)];
  return { low, high: Math.max(result.quantiles[100], low + 1e-6), opacity: Number(element("opacity").value) / 100 };
}

function tuned() {
  for (const id of ["top", "opacity"]) element(`${id}-told`).textContent = `${element(id).value} %`;
  const result = resultOf(target.scan?.id);
  if (result?.matches.length && target.heat) target.viewer.tuneHeat(heatLook(result));
}

const resultOf = (id) => page.results.find((result) => result.target === id);

function fault(text) {
  element("fault").hidden = !text;
  element("fault").firstElementChild.textContent = text;
}

async function guarded(work) {
  try {
    return await work();
  } catch (error) {
    fault(error.message);
    return undefined;
  }
}

// ---- linked cross-hairs: the matched point follows the point of the query, else both are at the same millimetres

function follow(other, sign) {
  return (point) => {
    if (!element("link").checked || !other.scan) return;
    const pair = page.match && page.match.source === source.scan?.id && page.match.target === target.scan?.id;
    const shift = pair ? page.match.shift : [0, 0, 0];
    other.goTo(point.map((value, axis) => value + sign * shift[axis]));
  };
}

let source, target;

function sourceMoved(point) {
  queryTold();
  follow(target, 1)(point);
}

function queryTold() {
  if (!source.point) return;
  const organ = document.createElement("b");
  organ.textContent = (source.organ ?? "").replaceAll("_", " ");
  element("query").replaceChildren(`${told(source.point)} in the source scan${source.organ ? ", " : ""}`, organ);
}

// ---- scans

function listed() {
  const options = () => page.scans.map(({ id, name, sent }) => new Option(sent ? `${name} (sent)` : name, id));
  element("source").replaceChildren(...options());
  element("source").value = source.scan?.id ?? page.scans[0].id;
  const boxes = page.scans.map(({ id, name }) => {
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: id, checked: page.chosen.has(id) });
    box.addEventListener("change", () => chosen(id, box.checked));
    label.append(box, name);
    return label;
  });
  const fieldset = element("targets").querySelector("fieldset");
  fieldset.replaceChildren(fieldset.firstElementChild, ...boxes);
  targetsTold();
}

function targetsTold() {
  const names = page.scans.filter(({ id }) => page.chosen.has(id));
  element("targets").querySelector("summary").textContent = `${names.length} chosen`;
  const shown = element("target").value;
  element("target").replaceChildren(...names.map(({ id, name }) => new Option(name, id)));
  if (names.some(({ id }) => id === shown)) element("target").value = shown;
  element("search").disabled = !names.length;
}

async function chosen(id, on) {
  if (on) page.chosen.add(id);
  else page.chosen.delete(id);
  targetsTold();
  if (element("target").value && element("target").value !== target.scan?.id) await showTarget(element("target").value);
}

async function showSource(id) {
  element("source").value = id;
  element("remove").hidden = !page.scans.find((scan) => scan.id === id)?.sent;
  page.match = null;
  if (await guarded(() => source.show(id, looks()))) queryTold();
}

async function showTarget(id, rank = 1) {
  element("target").value = id;
  if (!(await guarded(() => target.show(id, looks())))) return;
  await showResult(rank);
}

async function send(file) {
  element("status").textContent = `Sending ${file.name} …`;
  const scan = await guarded(() =>
    api.send(file, (share) => {
      const what = share < 1 ? `Sending ${file.name}: ${Math.round(share * 100)} %` : `Reading ${file.name} …`;
      element("status").textContent = what;
    }),
  );
  element("file").value = "";
  element("status").textContent = scan ? `${scan.name} was added and is the source scan now.` : "";
  if (!scan) return;
  fault("");
  page.scans.push(scan);
  listed();
  await showSource(scan.id);
}

async function remove() {
  const { id } = source.scan;
  if ((await guarded(() => api.removeScan(id))) === undefined) return;
  page.scans = page.scans.filter((scan) => scan.id !== id);
  page.chosen.delete(id);
  source.scan = null;
  listed();
  await showSource(page.scans[0].id);
  if (element("target").value !== target.scan?.id && page.chosen.size) await showTarget(element("target").value);
}

// ---- search

async function search() {
  if (page.job || !source.scan || !page.chosen.size) return;
  fault("");
  element("targets").open = false;
  page.job = "begun";
  running(true);
  const [point, from] = [source.point, source.scan.id];
  await guarded(async () => {
    page.job = (await api.search(from, point, [...page.chosen])).id;
    await watch(page.job, { source: from, point });
  });
  page.job = null;
  running(false);
}

async function watch(id, query) {
  let seen = 0;
  for (;;) {
    const now = await api.progress(id);
    element("progress").value = now.share;
    element("status").textContent = now.state === "waiting" ? "Waiting for another search …" : sentence(now.message);
    if (now.results.length > seen) {
      const news = now.results.slice(seen);
      seen = now.results.length;
      Object.assign(page, { query: { ...query, id }, results: now.results });
      tabs();
      if (news.some((result) => result.target === target.scan?.id)) await showResult();
    }
    if (now.state === "done") return finished(now.results);
    if (now.state === "stopped") return void (element("status").textContent = "Stopped.");
    if (now.state === "failed") {
      element("status").textContent = "";
      throw new Error(`The search failed: ${now.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

async function finished(results) {
  const seconds = results.reduce((sum, result) => sum + result.seconds, 0);
  const good = results.filter((result) => result.matches.length);
  const scans = good.length === 1 ? "one scan" : `${good.length} scans`;
  if (good.length && !resultOf(target.scan?.id)) await showTarget(good[0].target);
  const bad = results.find((result) => result.fault);
  if (bad) fault(`${bad.name} can't be searched: ${bad.fault}`);
  element("status").textContent = `Searched ${scans} in ${seconds.toFixed(1)} s.`;
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)} …`;

function running(yes) {
  element("search").disabled = yes;
  element("stop").hidden = element("progress").hidden = !yes;
  element("progress").value = 0;
  if (yes) element("status").textContent = "Asking …";
}

// ---- results

async function showResult(rank = 1) {
  const result = resultOf(target.scan?.id);
  element("matches").hidden = !result?.matches.length;
  tabs();
  if (!result?.matches.length) {
    page.match = null;
    return target.heat ? guarded(() => target.setHeat(null)) : undefined;
  }
  const { id } = page.query;
  const base = `/api/searches/${id}`;
  const heat = { url: `${base}/${result.target}/overlay.nii`, search: id, ...heatLook(result) };
  await guarded(() => target.setHeat(heat));
  element("matched").textContent = result.name;
  element("get-heat").href = `${base}/${result.target}/heat.nii.gz`;
  element("get-csv").href = `${base}/matches.csv`;
  element("get-json").href = `${base}/matches.json`;
  element("matches").querySelector("ol").replaceChildren(...result.matches.map((match) => row(result, match)));
  jump(result, result.matches[Math.min(rank, result.matches.length) - 1]);
}

function tabs() {
  element("found").replaceChildren(...(page.results.length > 1 ? page.results.map(tab) : []));
}

const part = (className, textContent) => Object.assign(document.createElement("span"), { className, textContent });

function tab({ target: id, name, matches }) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.append(part("", name), part("value", matches.length ? matches[0].similarity.toFixed(4) : "failed"));
  button.setAttribute("aria-current", id === target.scan?.id);
  button.addEventListener("click", () => showTarget(id));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function row(result, match) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.dataset.rank = match.rank;
  button.append(
    part("rank", match.rank),
    part("organ", (match.organ ?? "no label").replaceAll("_", " ")),
    part("value", match.similarity.toFixed(4)),
    part("place", told(match.point_mm)),
  );
  button.addEventListener("click", () => jump(result, match));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function jump(result, match) {
  for (const button of element("matches").querySelectorAll("ol button"))
    button.setAttribute("aria-current", button.dataset.rank === String(match.rank));
  const { source: from, point } = page.query;
  page.match = {
    source: from,
    target: result.target,
    shift: match.point_mm.map((value, axis) => value - point[axis]),
  };
  target.goTo(match.point_mm);
  if (element("link").checked && source.scan?.id === from) source.goTo(point);
}

// ---- start

function listen() {
  element("looks").addEventListener("change", ({ target: { name } }) => {
    for (const pane of [source, target]) {
      if (name === "window") pane.setWindow(looks().window);
      if (name === "view") pane.setView(looks().view);
    }
  });
  for (const id of ["top", "opacity"]) element(id).addEventListener("input", tuned);
  element("source").addEventListener("change", ({ target: { value } }) => showSource(value));
  element("target").addEventListener("change", ({ target: { value } }) => showTarget(value));
  element("file").addEventListener("change", ({ target: { files } }) => files.length && send(files[0]));
  element("remove").addEventListener("click", remove);
  element("search").addEventListener("click", search);
  element("stop").addEventListener("click", () => page.job && guarded(() => api.stop(page.job)));
  element("fault").querySelector("button").addEventListener("click", () => fault(""));
  element("source-view").addEventListener("told", queryTold);
  element("looks").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("click", ({ target: at }) => {
    if (!element("targets").contains(at)) element("targets").open = false;
  });
}

function about({ encoder, patch, random, told: scans }) {
  const name = Object.assign(document.createElement("b"), { textContent: encoder });
  element("about").replaceChildren("Encoder ", name, `, patch ${patch}`);
  const notes = [scans, random ? "The encoder is random: what it finds alike means little." : ""].filter(Boolean);
  element("note").textContent = notes.join(" ");
  element("note").hidden = !notes.length;
}

async function start() {
  const webgl = Boolean(document.createElement("canvas").getContext("webgl2"));
  document.body.dataset.viewer = webgl ? "webgl" : "png";
  const viewers = await import(webgl ? "./viewer-gl.js" : "./viewer-png.js");
  source = new Pane("source", viewers, { moved: (point) => sourceMoved(point), entered: search });
  target = new Pane("target", viewers, { moved: (point) => follow(source, -1)(point), entered: search });
  const told_ = await api.state();
  about(told_);
  page.scans = told_.scans;
  page.chosen.add((page.scans[1] ?? page.scans[0]).id);
  await Promise.all([source.open(), target.open()]);
  listen();
  if (matchMedia("(max-width: 760px)").matches) element("looks").elements.view.value = "axial";
  listed();
  await Promise.all([showSource(page.scans[0].id), showTarget([...page.chosen][0])]);
  document.body.dataset.ready = "true";
}

guarded(start);
