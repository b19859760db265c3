"use strict";
// The table of suspects. Texts and names come from others: they are only ever set as `textContent`.
(async () => {
  const $ = (id) => document.getElementById(id);
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const status = $("status");

  let data;
  try {
    const bytes = Uint8Array.from(atob($("data").textContent.trim()), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    data = await new Response(stream).json();
  } catch (error) {
    status.textContent = "The table can't be unpacked: it needs a browser of 2023 or later. (" + error + ")";
    return;
  }

  // ---- Columns ----
  const classes = data.classes;
  const hasSuggestion = "predicted_label" in data;
  const chosen = new Map(); // row -> class that was chosen or accepted
  const accepted = new Set(); // rows
  const percent = (share) => {
    if (share == null) return "–";
    if (share < 0.0005) return "< 0.1\u00a0%";
    return share >= 0.9995 ? "> 99.9\u00a0%" : (100 * share).toFixed(1) + "\u00a0%";
  };
  const suggestionOf = (row) => chosen.get(row) ?? (hasSuggestion ? data.predicted_label[row] : null);
  const offerOf = (row) => "Accept “" + nameOf(suggestionOf(row)) + "” for sample " + data.sample_index[row];
  const nameOf = (label) => (label == null ? "" : classes[label]);
  const breakable = (name) => name.split(/(?<=[_/.:-])/).flatMap((part) => [part, make("wbr", {})]);
  const value = (values) => (row) => values[row] ?? undefined; // TanStack sorts undefined last

  const accept = {
    id: "accept",
    title: hasSuggestion ? "Accept" : "Correct",
    className: "accept",
    cell: (row) => {
      const box = make("input", { type: "checkbox", checked: accepted.has(row), disabled: suggestionOf(row) == null });
      box.setAttribute("aria-label", offerOf(row));
      box.addEventListener("change", () => {
        mark(row, box.checked);
        refreshRow(row);
      });
      return make("label", {}, box);
    },
  };
  const text = data.texts.map(([name, values], number) => ({
    id: "text" + number,
    title: name,
    className: "text",
    accessorFn: (row) => values[row].toLowerCase(),
    cell: (row) => make("span", { textContent: values[row], dir: "auto" }),
  }));
  const given = {
    id: "given",
    title: "Given label",
    className: "label",
    accessorFn: (row) => data.given_label[row],
    cell: (row) => make("span", {}, ...breakable(nameOf(data.given_label[row]))),
  };
  const suggested = {
    id: "suggested",
    title: hasSuggestion ? "→ Right label" : "Right label",
    className: "label",
    accessorFn: hasSuggestion ? value(data.predicted_label) : undefined,
    cell: (row) => {
      const select = make("select", {});
      select.setAttribute("aria-label", "Right label of sample " + data.sample_index[row]);
      if (suggestionOf(row) == null)
        select.append(make("option", { value: "", textContent: "choose", selected: true }));
      classes.forEach((name, label) =>
        select.append(make("option", { value: label, textContent: name, selected: label === suggestionOf(row) })),
      );
      const shown = make("span", {}); // what a select shows is cut, this has lines
      shown.setAttribute("aria-hidden", "true");
      const show = () => {
        select.title = nameOf(suggestionOf(row));
        shown.replaceChildren(...breakable(select.title || "choose"));
      };
      show();
      select.addEventListener("change", () => {
        chosen.set(row, Number(select.value));
        mark(row, true);
        refreshRow(row);
        show();
      });
      return make("div", { className: "choice" }, shown, select);
    },
  };
  const number = (id, title, values, format, hint) => ({
    id,
    title,
    hint,
    className: "number",
    accessorFn: value(values),
    cell: (row) => make("span", { textContent: format(values[row]) }),
  });
  const columns = [
    accept,
    number("sample_index", "Sample", data.sample_index, String, "Row of the data set"),
    ...text,
    given,
    suggested,
  ];
  columns.push(
    number("label_score", "Label right", data.label_score, percent, "Probability that the given label is right"),
  );
  if (data.suggestion_confidence)
    columns.push(
      number(
        "suggestion_confidence",
        "Sure",
        data.suggestion_confidence,
        percent,
        "Probability that the suggested label is right",
      ),
    );
  if (data.loss)
    columns.push(number("loss", "Loss", data.loss, (loss) => (loss == null ? "–" : loss.toFixed(2)), "In nats"));
  if (data.reasons) {
    const [kinds, reasons] = data.reasons;
    columns.push({
      id: "reasons",
      title: "Reasons",
      className: "reasons",
      cell: (row) =>
        make("div", {}, ...reasons[row].map((kind) => make("span", { textContent: kinds[kind].replaceAll("_", " ") }))),
    });
  }

  // ---- Search, sorting, paging: TanStack Table ----
  const words = (row) =>
    [
      ...data.texts.map(([, values]) => values[row]),
      nameOf(data.given_label[row]),
      hasSuggestion ? nameOf(data.predicted_label[row]) : "",
      data.sample_index[row],
    ]
      .join(" ")
      .toLowerCase();
  const filters = [
    {
      id: "find",
      accessorFn: words,
      filterFn: (row, id, wanted) => wanted.every((word) => row.getValue(id).includes(word)),
    },
    {
      id: "is given",
      accessorFn: (row) => data.given_label[row],
      filterFn: (row, id, label) => row.getValue(id) === label,
    },
    {
      id: "is suggested",
      accessorFn: (row) => (hasSuggestion ? data.predicted_label[row] : null),
      filterFn: (row, id, label) => row.getValue(id) === label,
    },
    {
      id: "state",
      accessorFn: (row) => row,
      filterFn: (row, id, state) => accepted.has(row.original) === (state.wanted === "accepted"),
    },
  ];
  const core = window.TableCore;
  let state;
  const table = core.createTable({
    data: data.sample_index.map((_, row) => row),
    columns: [...columns, ...filters].map((column) => ({
      id: column.id,
      accessorFn: column.accessorFn,
      filterFn: column.filterFn,
      sortingFn: "basic",
      sortUndefined: "last",
      sortDescFirst: false,
    })),
    state: {},
    renderFallbackValue: null,
    autoResetPageIndex: false,
    enableSortingRemoval: false,
    enableMultiSort: false,
    getCoreRowModel: core.getCoreRowModel(),
    getFilteredRowModel: core.getFilteredRowModel(),
    getSortedRowModel: core.getSortedRowModel(),
    getPaginationRowModel: core.getPaginationRowModel(),
    onStateChange: (update) => {
      setState(typeof update === "function" ? update(state) : update);
      render();
    },
  });
  const setState = (next) => {
    state = next;
    table.setOptions((options) => ({ ...options, state }));
  };
  setState({ ...table.initialState, pagination: { pageIndex: 0, pageSize: 25 } });

  // ---- Drawing ----
  const root = $("table"),
    head = root.tHead,
    body = root.tBodies[0];
  const heading = new Map();
  head.append(
    make(
      "tr",
      {},
      ...columns.map((column) => {
        const cell = make("th", { scope: "col", className: column.className, title: column.hint ?? "" });
        if (column.accessorFn) {
          const button = make("button", { type: "button", textContent: column.title });
          button.addEventListener("click", () => sortBy(column.id));
          cell.append(button);
          $("sorter").append(make("option", { value: column.id, textContent: column.title }));
        } else cell.textContent = column.title;
        heading.set(column.id, cell);
        return cell;
      }),
    ),
  );
  $("sorter").prepend(make("option", { value: "", textContent: "worst first", selected: true }));

  const sortBy = (id) => {
    table.getColumn(id).toggleSorting();
    table.setPageIndex(0);
  };
  const mark = (row, on) => {
    if (on) accepted.add(row);
    else accepted.delete(row);
  };

  const rowOf = (row) => {
    const line = make("tr", { className: accepted.has(row) ? "accepted" : "" });
    line.dataset.row = row;
    for (const column of columns) {
      const cell = make("td", { className: column.className }, column.cell(row));
      cell.dataset.label = column.title.replace("→ ", "");
      line.append(cell);
    }
    return line;
  };
  const refreshRow = (row) => {
    // in place: the focus stays where it is
    const line = body.querySelector('tr[data-row="' + row + '"]');
    line.className = accepted.has(row) ? "accepted" : "";
    line.querySelector("input").checked = accepted.has(row);
    line.querySelector("input").disabled = suggestionOf(row) == null;
    line.querySelector("input").setAttribute("aria-label", offerOf(row));
    say();
  };
  const found = () => table.getFilteredRowModel().rows.map((row) => row.original);
  const shown = () => table.getPaginationRowModel().rows.map((row) => row.original);
  const say = () => {
    const count = table.getFilteredRowModel().rows.length,
      { pageIndex, pageSize } = state.pagination;
    const first = Math.min(pageIndex * pageSize + 1, count),
      last = Math.min((pageIndex + 1) * pageSize, count);
    const [from, to, all, taken] = [first, last, count, accepted.size].map((number) => number.toLocaleString("en"));
    status.textContent = `${from}–${to} of ${all} found, ${taken} accepted`;
    $("download").disabled = $("accept-none").disabled = accepted.size === 0;
    $("accept-found").textContent = `Accept all ${count.toLocaleString("en")} found`;
  };
  const render = () => {
    const pages = Math.max(table.getPageCount(), 1);
    body.replaceChildren(...shown().map(rowOf));
    for (const cell of body.querySelectorAll(".text")) {
      // a button where a text is longer than its place
      const content = cell.firstChild;
      if (content.scrollHeight > content.clientHeight + 4) {
        const more = make("button", { type: "button", textContent: "more" });
        more.addEventListener("click", () => {
          more.textContent = cell.classList.toggle("open") ? "less" : "more";
        });
        cell.append(more);
      }
    }
    for (const [id, cell] of heading) {
      const sorted = table.getColumn(id).getIsSorted();
      if (sorted) cell.setAttribute("aria-sort", sorted === "asc" ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    }
    $("page").value = state.pagination.pageIndex + 1;
    $("page").max = pages;
    $("pages").textContent = pages.toLocaleString("en");
    $("first").disabled = $("previous").disabled = !table.getCanPreviousPage();
    $("last").disabled = $("next").disabled = !table.getCanNextPage();
    say();
  };

  // ---- What people do ----
  const filter = (id, wanted) => {
    table.getColumn(id).setFilterValue(wanted);
    table.setPageIndex(0);
  };
  let waiting;
  $("search").addEventListener("input", (event) => {
    clearTimeout(waiting);
    const wanted = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    waiting = setTimeout(() => filter("find", wanted.length ? wanted : undefined), 150);
  });
  for (const [id, column, values] of [
    ["given", "is given", data.given_label],
    ["suggested", "is suggested", data.predicted_label],
  ]) {
    if (!$(id) || !values) continue;
    const occurring = new Set(values);
    classes.forEach((name, label) => {
      if (occurring.has(label)) $(id).append(make("option", { value: label, textContent: name }));
    });
    $(id).addEventListener("change", (event) =>
      filter(column, event.target.value === "" ? undefined : Number(event.target.value)),
    );
  }
  $("state").addEventListener("change", (event) =>
    filter("state", event.target.value ? { wanted: event.target.value } : undefined),
  );
  $("sorter").addEventListener("change", (event) => {
    table.setSorting(event.target.value ? [{ id: event.target.value, desc: false }] : []);
    table.setPageIndex(0);
  });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  const goTo = (page) => table.setPageIndex(Math.min(Math.max(page || 0, 0), Math.max(table.getPageCount() - 1, 0)));
  $("page").addEventListener("change", (event) => goTo(Number(event.target.value) - 1));
  $("first").addEventListener("click", () => goTo(0));
  $("previous").addEventListener("click", () => goTo(state.pagination.pageIndex - 1));
  $("next").addEventListener("click", () => goTo(state.pagination.pageIndex + 1));
  $("last").addEventListener("click", () => goTo(table.getPageCount() - 1));
  $("size").addEventListener("change", (event) => {
    table.setPageSize(Number(event.target.value));
    table.setPageIndex(0);
  });
  const acceptAll = (rows) => {
    for (const row of rows) if (suggestionOf(row) != null) accepted.add(row);
    render();
  };
  $("accept-page").addEventListener("click", () => acceptAll(shown()));
  $("accept-found").addEventListener("click", () => acceptAll(found()));
  $("accept-none").addEventListener("click", () => {
    accepted.clear();
    chosen.clear();
    render();
  });

  // ---- The way back ----
  let downloaded = "";
  const chosenNow = () => [...accepted].sort((a, b) => a - b).map((row) => [row, suggestionOf(row)]).join(" ");
  const cellOf = (content) => {
    // a spreadsheet would run a cell that begins like a formula; where it separates cells by semicolons, it splits there
    const safe = content.replace(
      /^(?='*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20])|(?<=[;\t\r\n])(?='*[=+\-@\uff1d\uff0b\uff0d\uff20])/g,
      "'",
    );
    return /[",;\t\r\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  };
  $("download").addEventListener("click", () => {
    const lines = [
      ["sample_index", ...data.texts.map(([name]) => name), "given_label", "corrected_label"].map(cellOf).join(","),
    ];
    for (const row of [...accepted].sort((a, b) => data.sample_index[a] - data.sample_index[b])) {
      const fields = [
        ...data.texts.map(([, values]) => values[row]),
        nameOf(data.given_label[row]),
        nameOf(suggestionOf(row)),
      ];
      lines.push([String(data.sample_index[row]), ...fields.map(cellOf)].join(","));
    }
    const address = URL.createObjectURL(new Blob(["\ufeff" + lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    make("a", { href: address, download: "corrections.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    downloaded = chosenNow();
  });
  addEventListener("beforeunload", (event) => {
    if (accepted.size > 0 && chosenNow() !== downloaded) event.preventDefault();
  });

  for (const id of ["filters", "actions", "pager"]) $(id).hidden = false;
  render();
})();
