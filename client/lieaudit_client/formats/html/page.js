"use strict";
/* Theme, tabs and charts of the report page. Everything it needs is in the page: no network request is ever made. */
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const drawn = new Map();
  let plotly = null;

  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();

  /* Figures name colours as "@name"; the page's style sheet says what they are in each theme. */
  function paint(value) {
    if (typeof value === "string") return value.startsWith("@") ? colour(value.slice(1)) : value;
    if (Array.isArray(value)) return value.length && typeof value[0] === "number" ? value : value.map(paint);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, paint(item)]));
    }
    return value;
  }

  function layout(figure) {
    const narrow = window.innerWidth < 640;
    const axis = { gridcolor: colour("grid"), zerolinecolor: colour("line"), linecolor: colour("line"), automargin: true };
    const own = paint(figure.layout);
    const merged = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 13, color: colour("ink") },
      margin: { l: 10, r: 14, t: 34, b: 10 }, hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
      legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" },
      ...own,
    };
    if (narrow && merged.height > 450) merged.height = 400;
    for (const side of [own.xaxis, own.yaxis]) {
      if (side && side.title) side.title.font = { size: narrow ? 11 : 13, color: colour("muted") };
    }
    merged.xaxis = { ...axis, ...(own.xaxis || {}) };
    merged.yaxis = { ...axis, ...(own.yaxis || {}) };
    return merged;
  }

  function draw(element) {
    const figure = figures[element.dataset.figure];
    if (!plotly || !figure || element.offsetParent === null) return;
    const shape = layout(figure);
    element.style.height = shape.height + "px";
    plotly.react(element, paint(figure.data), shape, { responsive: true, displayModeBar: false });
    element.classList.remove("loading");
    drawn.set(element, true);
  }

  const charts = () => document.querySelectorAll("[data-figure]");
  const redraw = () => charts().forEach(draw);

  function theme(name) {
    root.dataset.theme = name;
    redraw();
  }

  document.querySelectorAll("[data-tabs]").forEach((tabs) => {
    const group = tabs.dataset.tabs;
    tabs.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      tabs.querySelectorAll("button").forEach((other) => other.setAttribute("aria-selected", String(other === button)));
      document.querySelectorAll(`[data-group="${group}"]`).forEach((panel) => {
        const wanted = button.dataset.show;
        panel.hidden = !(wanted === "*" || panel.dataset.name === wanted);
        if (!panel.hidden) panel.querySelectorAll("[data-figure]").forEach(draw);
      });
    });
  });

  document.querySelectorAll("[data-open]").forEach((button) => {
    button.addEventListener("click", () => {
      const open = button.dataset.open === "true";
      const tree = button.closest(".panel").querySelector(".tree");
      tree.querySelectorAll("details").forEach((item) => { item.open = open; });
    });
  });

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  document.getElementById("theme").addEventListener("click", () => theme(root.dataset.theme === "dark" ? "light" : "dark"));
  dark.addEventListener("change", (event) => theme(event.matches ? "dark" : "light"));

  let before = null;
  window.addEventListener("beforeprint", () => { before = root.dataset.theme; theme("light"); });
  window.addEventListener("afterprint", () => { if (before) theme(before); });
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) { width = window.innerWidth; redraw(); }
  });

  /* The plotting library travels compressed: a third of the size. */
  async function load() {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    plotly = window.Plotly;
    redraw();
    root.dataset.ready = "true";
  }
  load().catch((problem) => {
    charts().forEach((element) => { element.textContent = "This browser cannot draw the charts; every number is in the tables. " + problem; });
    root.dataset.ready = "failed";
  });
})();
