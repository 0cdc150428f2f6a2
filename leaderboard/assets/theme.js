// Light or dark: what the system says, unless somebody chose here. Runs before the page is drawn.
"use strict";
(function () {
  const root = document.documentElement;
  let chosen = null;
  try { chosen = localStorage.getItem("ddbench-theme"); } catch { /* a page from a file may have no storage */ }
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => {
      button.textContent = isDark() ? "Light" : "Dark";
      button.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try { localStorage.setItem("ddbench-theme", root.dataset.theme); } catch { /* then it lasts for this page */ }
      show();
    });
    system.addEventListener("change", show);
    show();
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // the address bar holds filters, or a record's name
      document.getElementById("main").focus();
    });
  });
})();
