// Keeps a page's parts up to date. The server renders everything; this asks for the page again and
// replaces the parts that changed, so that what a reader has focused or typed stays.
"use strict";
(() => {
  const body = document.body;
  let busy = false, again = false;

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
      if (answer.redirected && new URL(answer.url).pathname === "/login") { location.assign(answer.url); return; }
      if (answer.ok) swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch { /* the server restarts: the next beat asks again */ } finally {
      busy = false;
      if (again) { again = false; setTimeout(refresh, 500); }
    }
  }

  function swap(fresh) {
    for (const part of document.querySelectorAll("[data-part]")) {
      const other = fresh.querySelector(`[data-part="${part.dataset.part}"]`);
      if (!other || part.innerHTML === other.innerHTML) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement : null;
      const key = focused && (focused.getAttribute("href") || focused.textContent);
      part.replaceChildren(...other.childNodes);
      if (key) [...part.querySelectorAll("a,button")].find(e => (e.getAttribute("href") || e.textContent) === key)?.focus();
    }
  }

  if (body.dataset.events) {
    const source = new EventSource(body.dataset.events);
    source.addEventListener("job", refresh);
    source.addEventListener("end", () => { source.close(); refresh(); });
    window.addEventListener("pagehide", () => source.close());
  }
  if (body.dataset.refresh) {
    setInterval(() => { if (!document.hidden) refresh(); }, 1000 * Number(body.dataset.refresh));
  }

  for (const form of document.querySelectorAll("form[data-upload]")) {
    form.addEventListener("submit", async event => {
      event.preventDefault();
      const told = form.querySelector("output"), file = form.elements.file.files[0];
      const kind = file.name.split(".").pop().toLowerCase();
      told.textContent = "Uploading…";
      const query = new URLSearchParams({ format: kind, needs: form.elements.needs.value });
      const answer = await fetch(`${form.dataset.upload}?${query}`, {
        method: "POST", body: file, credentials: "same-origin",
        headers: { "Content-Type": "application/octet-stream", "X-CSRF": form.dataset.csrf, Accept: "application/json" },
      });
      const said = await answer.json();
      told.textContent = answer.ok ? `upload:${said.id} (${said.rows} rows)` : said.detail;
      if (answer.ok) refresh();
    });
  }
})();
