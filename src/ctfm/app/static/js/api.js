// What the page asks of its server. Every failure is an Error with a sentence for people.

async function answer(response) {
  if (response.ok) return response.status === 204 ? null : response.json();
  throw new Error(await reason(response.status, () => response.json()));
}

async function reason(status, body) {
  try {
    return (await body()).error;
  } catch {
    return `the server answered ${status}`;
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server can't be reached; is 'ctfm app' still running?");
  }
  return answer(response);
}

export const state = () => ask("/api/state");
export const scan = (id) => ask(`/api/scans/${id}`);
export const removeScan = (id) => ask(`/api/scans/${id}`, { method: "DELETE" });
export const progress = (id) => ask(`/api/searches/${id}`);
export const stop = (id) => ask(`/api/searches/${id}`, { method: "DELETE" });

export function at(id, [left, posterior, superior], signal) {
  return ask(`/api/scans/${id}/at?${new URLSearchParams({ left, posterior, superior })}`, { signal });
}

export function search(source, point, targets) {
  const body = JSON.stringify({ source, point_mm: point, targets });
  return ask("/api/searches", { method: "POST", headers: { "Content-Type": "application/json" }, body });
}

// fetch() tells nothing of how far an upload is; the older interface does.
export function send(file, tell) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/scans?${new URLSearchParams({ name: file.name })}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => tell(event.lengthComputable ? event.loaded / event.total : 0);
    request.onerror = () => reject(new Error("the file could not be sent; it may be too large"));
    request.onload = async () => {
      if (request.status === 201) resolve(JSON.parse(request.responseText));
      else reject(new Error(await reason(request.status, () => JSON.parse(request.responseText))));
    };
    request.send(file);
  });
}
