// What needs no server: sliders and their fields, tabs, the address, clicks on rows, keys, pictures of figures.
(function () {
  "use strict";
  const same = () => window.dash_clientside.no_update;
  const cause = () => {
    const found = window.dash_clientside.callback_context.triggered_id;
    return typeof found === "string" ? found : "";
  };
  const number = (value) => (value === null || value === undefined || value === "" ? NaN : Number(value));
  const close = (a, b) => Math.abs(a - b) < 1e-9;

  function labelOf(point) {
    const texts = [point.text, point.label, point.hovertext].concat(point.customdata || []);
    for (const text of texts) {
      const found = typeof text === "string" && text.match(/^L\d+[HN]\d+$/);
      if (found) return found[0];
    }
    return null;
  }

  let count = 0;
  let timer = null;

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    explorer: {
      // The slider of log10 rho and the field of rho. Four digits are as fine as the slider is.
      sync_log: function (slide, rho) {
        const log = number(slide);
        if (cause().startsWith("slide-")) {
          if (isNaN(log)) return [same(), same()];
          return [same(), Number(Math.pow(10, log).toPrecision(4))];
        }
        const value = number(rho);
        if (!(value > 0) || close(Math.log10(value), log)) return [same(), same()];
        return [Math.log10(value), same()];
      },
      sync: function (slide, value) {
        if (cause().endsWith("-slide")) return [same(), Number(slide)];
        return close(number(slide), number(value)) || isNaN(number(value)) ? [same(), same()] : [number(value), same()];
      },
      same: function (prompt, card) {
        if (prompt === card) return [same(), same()];
        return cause() === "card-prompt" ? [card, same()] : [same(), prompt];
      },
      show_tab: function (tab) {
        document.querySelectorAll(".pane").forEach((pane) => pane.classList.toggle("shown", pane.id === "pane-" + tab));
        document.querySelectorAll(".tab").forEach(function (button) {
          const chosen = button.dataset.tab === tab;
          button.setAttribute("aria-selected", chosen ? "true" : "false");
          button.tabIndex = chosen ? 0 : -1;
        });
        setTimeout(() => window.dispatchEvent(new Event("resize")), 0); // figures that were hidden had no width
        return same();
      },
      polling: function (writer, finished) {
        const over = !writer || (finished && finished.name === writer.name);
        return [over, over];
      },
      settle: function () {
        clearTimeout(timer);
        timer = setTimeout(() => set("settled", {}), 120);
        return same();
      },
      address: function (query) {
        if (query && query !== window.location.search) window.history.replaceState(null, "", window.location.pathname + query);
        return same();
      },
      clicked: function (...clicks) {
        const which = window.dash_clientside.callback_context.triggered[0];
        const point = which && which.value && which.value.points && which.value.points[0];
        return (point && labelOf(point)) || same();
      },
    },
  });

  function set(id, data) {
    count += 1;
    window.dash_clientside.set_props(id, { data: Object.assign({ n: count }, data) });
  }

  document.addEventListener("click", function (event) {
    const button = event.target.closest("button");
    if (!button) return;
    const d = button.dataset;
    if (d.label) window.dash_clientside.set_props("at", { value: d.label });
    if (d.tab) window.dash_clientside.set_props("tab", { data: d.tab });
    if (d.toggle) set("toggle", { label: d.toggle });
    if (button.id === "switch") set("toggle", { label: document.getElementById("at").value });
    if (d.setting) set("loads", { key: d.setting });
    if (d.sort) {
      const head = button.closest("th");
      const up = head.getAttribute("aria-sort") === "descending";
      window.dash_clientside.set_props("order", { data: { by: d.sort, up: up } });
    }
    if (d.save) {
      const [name, format] = d.save.split(" ");
      const graph = document.querySelector("#panel-" + name + " .js-plotly-plot");
      if (graph && graph.data && graph.data.length) {
        const box = graph.getBoundingClientRect();
        const size = { width: Math.round(box.width), height: Math.round(box.height) };
        window.Plotly.downloadImage(graph, Object.assign({ format: format, filename: name, scale: format === "png" ? 2 : 1 }, size));
      }
    }
  });

  // Whoever moves a slider means the edit of the sliders, and no longer the one from the file.
  const sliders = ["slide-attn", "slide-mlp", "alpha-slide", "rho-attn", "rho-mlp", "alpha", "layers"];
  document.addEventListener("input", function (event) {
    const file = document.querySelector('#edit input[value="file"]');
    if (sliders.includes(event.target.id) && file && file.checked) window.dash_clientside.set_props("edit", { value: "sliders" });
  });

  // Arrow keys move between the rows of a table; Enter is the button's own.
  document.addEventListener("keydown", function (event) {
    const button = event.target.closest && event.target.closest("button.open, button.tab");
    if (!button) return;
    const tab = button.classList.contains("tab");
    const [on, back] = tab ? ["ArrowRight", "ArrowLeft"] : ["ArrowDown", "ArrowUp"];
    const step = { [on]: 1, [back]: -1, Home: -1e9, End: 1e9 }[event.key];
    if (!step) return;
    const all = Array.from(button.closest(tab ? ".tabs" : "table").querySelectorAll(tab ? "button.tab" : "button.open"));
    const next = all[Math.min(all.length - 1, Math.max(0, all.indexOf(button) + step))];
    next.focus();
    if (tab) next.click();
    event.preventDefault();
  });

  // A table that is drawn anew loses the focus: give it back to the row that had it.
  let last = null;
  document.addEventListener("focusin", function (event) {
    const d = event.target.dataset || {};
    last = d.label || d.sort ? event.target : null;
  });
  function refocus() {
    if (!last || last.isConnected || document.activeElement !== document.body) return;
    const key = last.dataset.label ? "label" : "sort";
    const again = document.querySelector(`#table button[data-${key}="${last.dataset[key]}"]`);
    if (again) again.focus({ preventScroll: true });
  }

  // Menus are named by their labels, and can be reached with the Tab key.
  function name_menus() {
    for (const id of ["behavior", "method", "score", "colour", "sweep"]) {
      const control = document.getElementById(id);
      const names = id + "-label " + id + "-value";
      if (!control || control.tagName !== "BUTTON" || control.getAttribute("aria-labelledby") === names) continue;
      control.setAttribute("aria-labelledby", names);
      if (control.tabIndex < 0) control.tabIndex = 0;
    }
  }

  // A figure is as high as it was drawn; left alone, one that was drawn while hidden would have no height.
  function fit_figures() {
    document.querySelectorAll(".graph > .js-plotly-plot").forEach(function (graph) {
      const height = graph.layout && graph.layout.height ? graph.layout.height + "px" : "";
      if (height && graph.parentElement.style.height !== height) graph.parentElement.style.height = height;
    });
  }

  // Pages of token views are as high as what they show.
  function fit_frames() {
    document.querySelectorAll("iframe.view").forEach(function (frame) {
      const inner = frame.contentDocument && frame.contentDocument.body;
      if (!inner || frame.watched === inner) return;
      frame.watched = inner;
      const fit = () => { frame.style.height = inner.scrollHeight + 18 + "px"; };
      new ResizeObserver(fit).observe(inner);
      fit();
    });
  }
  document.addEventListener("load", (event) => event.target.tagName === "IFRAME" && fit_frames(), true);

  let waiting = false;
  new MutationObserver(function () {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(function () {
      waiting = false;
      refocus();
      name_menus();
      fit_figures();
      fit_frames();
    });
  }).observe(document, { childList: true, subtree: true });
})();
