"use strict";

// Tables sort by the buttons in their heads. Values that are not numbers go by their text, missing ones last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const body = table.tBodies[0];

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number.parseFloat(text);
    return Number.isNaN(number) ? (text === "\u2013" ? null : text) : number;
  };

  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * String(a).localeCompare(String(b));
  };

  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) {
        if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      }
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const rows = [...body.rows];
      rows.sort((a, b) => compare(valueOf(a, column), valueOf(b, column), ascending ? 1 : -1));
      body.append(...rows);
    });
  });
}

// A cell of a heat map is told in words: under the pointer, and by arrow keys while the map has the focus.
for (const figure of document.querySelectorAll("figure.matrix")) {
  const readout = figure.querySelector(".readout");
  const table = figure.querySelector("table.heat");
  const mosaic = figure.querySelector(".mosaic");
  const box = mosaic ?? table.closest(".scroll");
  const drawing = mosaic?.querySelector("svg");
  const { row: rowHeader, column: columnHeader, unit } = figure.dataset;
  let rows, columns, textOf, mark;

  if (mosaic) {
    const names = JSON.parse(figure.closest("[data-names]").dataset.names);
    const labels = figure.querySelectorAll(".mosaic-names span");
    const figures = mosaic.dataset.figures.split(";").map(
      row => new Map(row ? row.split(",").map(cell => cell.split(":")) : []));
    const cursor = drawing.querySelector(".cursor");
    const [across, down, frame] = cursor.children;
    rows = columns = names;
    textOf = (row, column) => figures[row].get(String(column)) ?? "0";
    mark = (row, column) => {
      cursor.toggleAttribute("hidden", row === null);
      labels.forEach((label, k) => label.classList.toggle("at", k === row));
      if (row === null) return;
      across.setAttribute("y", row);
      down.setAttribute("x", column);
      frame.setAttribute("y", row);
      frame.setAttribute("x", column);
    };
  } else {
    const body = [...table.tBodies[0].rows];
    rows = body.map(row => row.cells[0].title);
    columns = [...table.tHead.rows[0].cells].slice(1).map(head => head.title);
    const cellOf = (row, column) => body[row].cells[column + 1];
    textOf = (row, column) => {
      const cell = cellOf(row, column);
      return cell.hasAttribute("data-none") ? "\u2013" : cell.textContent || "0";
    };
    let marked = null;
    mark = (row, column) => {
      marked?.classList.remove("at");
      marked = row === null ? null : cellOf(row, column);
      marked?.classList.add("at");
    };
  }

  const show = (row, column) => {
    mark(row, column);
    if (row === null) {
      readout.textContent = "";
      return;
    }
    const text = textOf(row, column);
    readout.textContent = `${rowHeader} ${rows[row]}, ${columnHeader} ${columns[column]}: ` +
      (text === "\u2013" ? "no images" : text + unit);
  };
  const at = { row: 0, column: 0 };
  const rest = () => (document.activeElement === box ? show(at.row, at.column) : show(null));

  const under = event => {
    if (drawing) {
      const area = drawing.getBoundingClientRect();
      const row = Math.floor((event.clientY - area.top) / area.height * rows.length);
      const column = Math.floor((event.clientX - area.left) / area.width * columns.length);
      return row in rows && column in columns ? { row, column } : null;
    }
    const cell = event.target.closest("td");
    return cell && { row: cell.parentNode.sectionRowIndex, column: cell.cellIndex - 1 };
  };
  for (const kind of ["pointermove", "pointerdown"]) {
    box.addEventListener(kind, event => {
      const found = under(event);
      if (!found) return;
      if (kind === "pointerdown") Object.assign(at, found); // a tap stays, and arrow keys go on from there
      show(found.row, found.column);
    });
  }
  box.addEventListener("pointerleave", rest);
  box.addEventListener("focus", rest);
  box.addEventListener("blur", rest);
  box.addEventListener("keydown", event => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    at.row = Math.min(Math.max(at.row + step[0], 0), rows.length - 1);
    at.column = Math.min(Math.max(at.column + step[1], 0), columns.length - 1);
    show(at.row, at.column);
    box.querySelector("td.at")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}

// What is folded on a screen is wanted on paper.
const unfolded = [];
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    unfolded.push(details);
  }
});
window.addEventListener("afterprint", () => {
  for (const details of unfolded.splice(0)) details.open = false;
});
