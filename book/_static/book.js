// What the theme leaves out for readers who use a keyboard or a screen reader.
// A region that scrolls sideways can be reached with the Tab key and has a name; so has each small control.
(() => {
  for (const toggle of document.querySelectorAll("details > summary:has(> .toctree-toggle)")) {
    const page = toggle.closest("li").querySelector(":scope > a")?.textContent.trim();
    toggle.setAttribute("aria-label", `Pages below ${page}`);
  }
  for (const box of document.querySelectorAll(".task-list-item-checkbox")) {
    box.setAttribute("aria-label", box.closest("li").textContent.trim());
  }

  // Printed text is a table where most of its lines have a wide gap inside.
  for (const printed of document.querySelectorAll(".cell_output .output.stream pre")) {
    const lines = printed.textContent.trim().split("\n");
    const gaps = lines.filter((line) => /\S {2,}\S/.test(line)).length;
    printed.classList.toggle("columns", lines.length > 1 && 2 * gaps > lines.length);
  }

  const scrollable = [
    ['mjx-container[display="true"]', "Equation, scrolls sideways"],
    [".pst-scrollable-table-container, .cell_output .output.text_html, pre.columns", "Table, scrolls sideways"],
    [".highlight pre", "Code, scrolls sideways"],
    ["aside.sidebar, .bd-sidebar-primary, .bd-sidebar-secondary .sidebar-secondary-item", "Navigation"],
  ];

  // A formula that is a little too wide, as on a phone, is drawn smaller; what is much too wide scrolls.
  function fit() {
    const formulas = [...document.querySelectorAll('mjx-container[display="true"]')];
    for (const formula of formulas) formula.style.removeProperty("zoom");
    const ratios = formulas.map((formula) => formula.clientWidth / formula.scrollWidth); // measure all, then write
    formulas.forEach((formula, i) => {
      if (ratios[i] < 1) formula.style.zoom = Math.max(0.8, ratios[i] - 0.005);
    });
    reach();
  }

  function reach() {
    for (const [selector, name] of scrollable) {
      for (const box of document.querySelectorAll(selector)) {
        const wide = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
        const scrolls = wide && /auto|scroll/.test(getComputedStyle(box).overflow);
        if (scrolls && !box.hasAttribute("tabindex")) {
          box.tabIndex = 0;
          box.dataset.bookReach = "";
          if (!box.hasAttribute("role") && !box.hasAttribute("aria-label")) {
            box.setAttribute("role", "group");
            box.setAttribute("aria-label", name);
          }
        } else if (!scrolls && "bookReach" in box.dataset) {
          box.removeAttribute("tabindex");
          delete box.dataset.bookReach;
        }
      }
    }
  }

  // Search: chapters come before the pages of the library, and the extract shown is of the text, not of the buttons.
  function tuneSearch() {
    if (typeof Search === "undefined" || Search.tuned) return;
    const read = Search.htmlToText;
    Search.tuned = true;
    Search.htmlToText = (html, anchor) => {
      const article = new DOMParser().parseFromString(html, "text/html").querySelector("article");
      article?.querySelectorAll("p.launch, details.hide, script, style").forEach((part) => part.remove());
      article?.querySelectorAll(".math").forEach((part) => (part.textContent = part.textContent.replace(/\\[()[\]]/g, "")));
      return read.call(Search, article ? `<div role="main">${article.innerHTML}</div>` : html, anchor);
    };
    Scorer.score = ([page, , , , score]) => score + (page.startsWith("book/") ? 30 : 0);
  }
  tuneSearch();
  addEventListener("DOMContentLoaded", tuneSearch);

  addEventListener("load", () => {
    const typeset = window.MathJax?.startup?.promise ?? Promise.resolve();
    typeset.then(fit);
  });
  addEventListener("resize", fit);
})();
