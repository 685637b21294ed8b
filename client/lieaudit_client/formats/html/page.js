"use strict";
/* Theme, tabs, trees and tips of the report page. Everything is drawn without it: it only moves things about. */
(() => {
  const root = document.documentElement;

  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
    root.dataset.theme = event.matches ? "dark" : "light";
  });

  /* Tabs show one panel of their group; without this script, and on paper, all are there. */
  document.querySelectorAll("[data-tabs]").forEach((tabs) => {
    const buttons = [...tabs.querySelectorAll("button")];
    const choose = (chosen) => {
      buttons.forEach((button) => {
        button.setAttribute("aria-selected", String(button === chosen));
        button.tabIndex = button === chosen ? 0 : -1;
      });
      document.querySelectorAll(`[data-group="${tabs.dataset.tabs}"]`).forEach((panel) => {
        panel.classList.toggle("away", panel.dataset.name !== chosen.dataset.show);
      });
    };
    tabs.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) choose(button);
    });
    tabs.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = buttons[(buttons.indexOf(event.target) + step + buttons.length) % buttons.length];
      choose(next);
      next.focus();
    });
    choose(buttons[0]);
  });

  document.querySelectorAll("[data-open]").forEach((button) => {
    button.addEventListener("click", () => {
      button.closest(".panel").querySelectorAll(".tree details").forEach((item) => {
        item.open = button.dataset.open === "true";
      });
    });
  });

  /* Tables that are wider than the screen say so. */
  const widths = () => document.querySelectorAll(".scroll").forEach((box) => {
    box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
  });
  window.addEventListener("resize", widths);
  document.addEventListener("toggle", widths, true);
  document.addEventListener("click", widths);
  widths();

  /* What a mark is, beside the pointer, and on a touch. */
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const show = (event) => {
    const mark = event.target.closest && event.target.closest("[data-tip]");
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const room = root.clientWidth - tip.offsetWidth - 8;
    tip.style.left = Math.max(8, Math.min(room, event.clientX + 12)) + "px";
    tip.style.top = (event.clientY > 80 ? event.clientY - tip.offsetHeight - 12 : event.clientY + 16) + "px";
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true, capture: true });

  /* Paper is light, and shows what is folded. */
  let before = null;
  window.addEventListener("beforeprint", () => {
    const closed = [...document.querySelectorAll("details:not([open])")];
    before = { theme: root.dataset.theme, closed };
    root.dataset.theme = "light";
    closed.forEach((item) => { item.open = true; });
  });
  window.addEventListener("afterprint", () => {
    if (!before) return;
    root.dataset.theme = before.theme;
    before.closed.forEach((item) => { item.open = false; });
    before = null;
  });
  root.dataset.ready = "true";
})();
