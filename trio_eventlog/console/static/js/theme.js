// Runs before the page is drawn, so that it never shows in the wrong colours first.
"use strict";

(() => {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
