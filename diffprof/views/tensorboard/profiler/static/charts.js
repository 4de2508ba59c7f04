// The few charts of Google's loader that torch-tb-profiler 0.4.3 draws with, as SVG and without the network.
//
// The page asks for google.charts.load and for google.visualization.{DataTable, arrayToDataTable, events,
// ColumnChart, ComboChart, SteppedAreaChart, LineChart, PieChart, Table, Timeline}. Names and cells come from
// traces: they are set as text everywhere, never as HTML, whatever the page allows.
'use strict';

(() => {
  const SVG = 'http://www.w3.org/2000/svg';
  const COLOURS = [
    '#3b6fb6', '#e07b39', '#4a9d5b', '#c0504d', '#8064a2', '#3ba3b5', '#2f4b7c', '#7f7f7f', '#b05a8f', '#5b7f2b',
  ];
  const AXIS = '#666';
  const GRID = '#e2e2e2';
  const CHARACTER = 6.4; // width of one at 11 px, on average

  // --- data ------------------------------------------------------------------------------------------

  const isCell = (cell) => cell !== null && typeof cell === 'object' && 'v' in cell;
  const valueOf = (cell) => (isCell(cell) ? cell.v : cell);
  const textOf = (cell) => String((isCell(cell) ? cell.f ?? cell.v : cell) ?? '');
  const numberOf = (cell) => Number(valueOf(cell)) || 0;

  class DataTable {
    constructor() {
      this.columns = [];
      this.rows = [];
      this.styles = new Map();
    }
    addColumn(type, label) {
      this.columns.push(typeof type === 'object' ? type : { type, label });
    }
    addRow(row) {
      this.rows.push(row);
    }
    addRows(rows) {
      this.rows.push(...rows);
    }
    setProperty(row, column, name, value) {
      if (name === 'style') this.styles.set(`${row},${column}`, value);
    }
    // Columns with a role (tooltips) are not drawn.
    get drawn() {
      return this.columns.map((column, index) => index).filter((index) => !this.columns[index].role);
    }
    get names() {
      return this.drawn.slice(1).map((index) => this.columns[index].label || '');
    }
    get points() {
      return this.rows.map((row) => this.drawn.map((index) => row[index]));
    }
  }

  function arrayToDataTable(lines) {
    const table = new DataTable();
    lines[0].forEach((head, index) =>
      table.addColumn(index ? 'number' : 'string', head && head.label ? head.label : head),
    );
    table.addRows(lines.slice(1));
    return table;
  }

  // --- drawing ---------------------------------------------------------------------------------------

  function add(parent, name, attributes = {}, text = undefined) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.appendChild(element);
    return element;
  }

  const tip = (element, text) => add(element, 'title', {}, text);
  const cut = (text, width) => {
    const most = Math.max(1, Math.floor(width / CHARACTER));
    return text.length > most ? `${text.slice(0, most - 1)}…` : text;
  };

  function figure(value) {
    const size = Math.abs(value);
    for (const [unit, factor] of [['G', 1e9], ['M', 1e6], ['k', 1e3]]) {
      if (size >= 10 * factor || (factor > 1e3 && size >= factor)) return `${+(value / factor).toPrecision(3)}${unit}`;
    }
    return String(+value.toPrecision(3));
  }

  // The largest value an axis shows: 1, 2, 2.5 or 5 times a power of ten.
  function ceiling(value) {
    if (!(value > 0)) return 1;
    const power = 10 ** Math.floor(Math.log10(value));
    return [1, 2, 2.5, 5, 10].map((step) => step * power).find((top) => top >= value * 0.999);
  }

  // Round values on an axis: at most eight multiples of such a step.
  function marks(low, high) {
    const step = ceiling((high - low) / 7);
    const first = Math.ceil(low / step - 1e-9);
    const count = Math.floor(high / step + 1e-9) - first + 1;
    return Array.from({ length: count }, (_, index) => +((first + index) * step).toPrecision(12));
  }

  class Chart {
    constructor(element) {
      this.element = element;
      this.listeners = {};
      this.selection = [];
    }
    listen(name, listener) {
      (this.listeners[name] ??= []).push(listener);
    }
    fire(name, event = {}) {
      (this.listeners[name] || []).forEach((listener) => listener(event));
    }
    clearChart() {
      this.element.textContent = '';
    }
    getSelection() {
      return this.selection;
    }
    setSelection(selection) {
      this.selection = selection || [];
    }
    open(options) {
      this.clearChart();
      const width = Math.max(280, this.element.clientWidth || this.element.parentElement?.clientWidth || 700);
      const height = options.height || 300;
      const svg = add(this.element, 'svg', {
        width, height, viewBox: `0 0 ${width} ${height}`,
        'font-family': 'Roboto, Arial, sans-serif', 'font-size': 11, fill: '#333',
      });
      if (options.title) add(svg, 'text', { x: 8, y: 16, 'font-size': 13, 'font-weight': 'bold' }, options.title);
      return { svg, width, height };
    }
    legend(svg, names, colours, left, y, width) {
      let x = left;
      names.forEach((name, index) => {
        const shown = cut(name, width / Math.max(1, names.length) - 24);
        add(svg, 'rect', { x, y: y - 9, width: 10, height: 10, fill: colours[index % colours.length] });
        tip(add(svg, 'text', { x: x + 14, y }, shown), name);
        x += 26 + CHARACTER * shown.length;
      });
    }
  }

  // The plot area of a chart with axes, and where values lie in it.
  class Plot {
    constructor(svg, width, height, { min = 0, max, second }) {
      Object.assign(this, { svg, min, max, second, left: 64, top: 28 });
      this.width = width - this.left - (second ? 64 : 16);
      this.height = height - this.top - 62;
    }
    y(value, second = false) {
      const [min, max] = second ? [0, this.second] : [this.min, this.max];
      return this.top + this.height * (1 - (value - min) / (max - min));
    }
    axes(options) {
      const middle = this.top + this.height / 2;
      for (let line = 0; line <= 4; line++) {
        const value = this.min + ((this.max - this.min) * line) / 4;
        const y = this.y(value);
        add(this.svg, 'line', { x1: this.left, x2: this.left + this.width, y1: y, y2: y, stroke: GRID });
        add(this.svg, 'text', { x: this.left - 6, y: y + 4, 'text-anchor': 'end', fill: AXIS }, figure(value));
        if (this.second) {
          const at = { x: this.left + this.width + 6, y: y + 4, fill: AXIS };
          add(this.svg, 'text', at, figure((this.second * line) / 4));
        }
      }
      const titles = { 'text-anchor': 'middle', 'font-style': 'italic', fill: AXIS };
      if (options.vAxis?.title) {
        const turned = { x: 12, y: middle, transform: `rotate(-90 12 ${middle})`, ...titles };
        add(this.svg, 'text', turned, options.vAxis.title);
      }
      if (options.hAxis?.title) {
        const below = { x: this.left + this.width / 2, y: this.top + this.height + 32, ...titles };
        add(this.svg, 'text', below, options.hAxis.title);
      }
    }
  }

  // Columns side by side, stacked, or as steps that touch; series that `options.series` calls lines are lines.
  class Columns extends Chart {
    get touching() {
      return false;
    }
    draw(table, options) {
      const { svg, width, height } = this.open(options);
      const { points, names } = table;
      const colours = options.colors || COLOURS;
      const lines = names.map((name, index) => options.series?.[index]?.type === 'line');
      const bars = names.map((name, index) => index).filter((index) => !lines[index]);
      const values = points.map((point) => point.slice(1).map(numberOf));
      const heights = values.map((row) =>
        options.isStacked
          ? bars.reduce((sum, index) => sum + Math.max(0, row[index]), 0)
          : Math.max(0, ...bars.map((index) => row[index])),
      );
      const lowest = options.isStacked ? 0 : Math.min(0, ...values.flatMap((row) => bars.map((i) => row[i])));
      const tops = values.flatMap((row) => row.filter((value, index) => lines[index]));
      const plot = new Plot(svg, width, height, {
        min: lowest < 0 ? -ceiling(-lowest) : 0,
        max: lowest < 0 && Math.max(...heights) <= 0 ? 0 : ceiling(Math.max(...heights, 0)),
        second: tops.length ? ceiling(Math.max(...tops)) : 0,
      });
      plot.axes(options);
      const room = plot.width / Math.max(1, points.length);
      const every = Math.ceil(70 / room);
      points.forEach((point, row) => {
        const centre = plot.left + room * (row + 0.5);
        this.bars(plot, point, values[row], { row, bars, names, colours, room, centre, options });
        if (row % every === 0) {
          const label = { x: centre, y: plot.top + plot.height + 15, 'text-anchor': 'middle' };
          tip(add(svg, 'text', label, cut(textOf(point[0]), room * every)), textOf(point[0]));
        }
      });
      lines.forEach((line, index) => {
        if (!line) return;
        const path = values.map((row, at) => `${plot.left + room * (at + 0.5)},${plot.y(row[index], true)}`);
        const look = { fill: 'none', stroke: colours[index % colours.length], 'stroke-width': 2 };
        add(svg, 'polyline', { ...look, points: path.join(' ') });
      });
      this.legend(svg, names, colours, plot.left, height - 8, plot.width);
      this.fire('ready');
    }
    bars(plot, point, values, { row, bars, names, colours, room, centre, options }) {
      const whole = this.touching ? room : room * 0.7;
      const together = options.isStacked || this.touching;
      let base = 0;
      bars.forEach((index, place) => {
        const value = values[index];
        const from = options.isStacked ? base : 0;
        if (options.isStacked) base += value;
        const edges = [plot.y(from), plot.y(from + value)].sort((a, b) => a - b);
        const bar = add(plot.svg, 'rect', {
          x: centre - whole / 2 + (together ? 0 : (whole * place) / bars.length),
          y: edges[0],
          width: Math.max(0.5, together ? whole : whole / bars.length),
          height: edges[1] - edges[0],
          fill: colours[index % colours.length],
          'fill-opacity': this.touching && !options.isStacked ? 0.45 : 0.9,
        });
        tip(bar, `${textOf(point[0])}\n${names[index]}: ${value.toLocaleString()}`);
        bar.addEventListener('click', () => {
          this.selection = [{ row, column: index + 1 }];
          this.fire('select');
        });
      });
    }
  }

  class SteppedArea extends Columns {
    get touching() {
      return true;
    }
  }

  // With the `explorer` option, dragging zooms in and a right click shows everything again.
  class Lines extends Chart {
    draw(table, options) {
      this.table = table;
      this.options = options;
      this.setRange(undefined);
    }
    setRange(range) {
      const { svg, width, height } = this.open(this.options);
      const { points, names } = this.table;
      const xs = points.map((point) => numberOf(point[0]));
      const [low, high] = range || [Math.min(...xs), Math.max(...xs)];
      const highest = Math.max(...points.flatMap((point) => point.slice(1).map(numberOf)), 0);
      const plot = new Plot(svg, width, height, { max: ceiling(highest) });
      this.low = low;
      this.high = high > low ? high : low + 1;
      this.plot = plot;
      plot.axes(this.options);
      for (const value of marks(low, this.high)) {
        const label = { x: this.x(value), y: plot.top + plot.height + 15, 'text-anchor': 'middle' };
        add(svg, 'text', label, value.toLocaleString('en'));
      }
      const inside = `inside-${Math.random().toString(36).slice(2)}`;
      const area = { x: plot.left, y: plot.top, width: plot.width, height: plot.height };
      add(add(svg, 'clipPath', { id: inside }), 'rect', area);
      const lines = add(svg, 'g', { 'clip-path': `url(#${inside})` });
      names.forEach((name, index) => {
        const path = points
          .map((point, row) => [xs[row], valueOf(point[index + 1])])
          .filter(([, value]) => value !== null && value !== undefined)
          .map(([x, value]) => `${this.x(x)},${plot.y(value)}`);
        const look = { fill: 'none', stroke: COLOURS[index % COLOURS.length], 'stroke-width': 1.6 };
        tip(add(lines, 'polyline', { ...look, points: path.join(' ') }), name);
      });
      this.dots = add(lines, 'g');
      this.legend(svg, names, COLOURS, plot.left, height - 8, plot.width);
      if (this.options.explorer) this.zooming(svg, area);
      this.setSelection(this.selection);
      setTimeout(() => this.fire('ready'), 0);
    }
    x(value) {
      return this.plot.left + (this.plot.width * (value - this.low)) / (this.high - this.low);
    }
    zooming(svg, area) {
      const sheet = add(svg, 'rect', { ...area, fill: 'transparent', cursor: 'crosshair' });
      const at = (event) => event.clientX - svg.getBoundingClientRect().left;
      let from = null;
      let mark = null;
      sheet.addEventListener('mousedown', (event) => {
        if (event.button !== 0) return;
        from = at(event);
        mark = add(svg, 'rect', { ...area, x: from, width: 0, fill: '#3b6fb6', 'fill-opacity': 0.2 });
        mark.style.pointerEvents = 'none';
      });
      sheet.addEventListener('mousemove', (event) => {
        if (from === null) return;
        mark.setAttribute('x', Math.min(from, at(event)));
        mark.setAttribute('width', Math.abs(at(event) - from));
      });
      sheet.addEventListener('mouseup', (event) => {
        if (from === null) return;
        const ends = [from, at(event)].sort((a, b) => a - b).map((x) => this.valueAt(x));
        const far = Math.abs(at(event) - from) > 4;
        from = null;
        mark.remove();
        if (far) this.setRange(ends);
      });
      sheet.addEventListener('contextmenu', (event) => {
        event.preventDefault();
        this.setRange(undefined);
      });
    }
    valueAt(x) {
      return this.low + ((this.high - this.low) * (x - this.plot.left)) / this.plot.width;
    }
    setSelection(selection) {
      super.setSelection(selection);
      if (!this.dots) return;
      this.dots.textContent = '';
      for (const { row, column } of this.selection) {
        const point = this.table.points[row];
        if (!point) continue;
        const place = { cx: this.x(numberOf(point[0])), cy: this.plot.y(numberOf(point[column])) };
        add(this.dots, 'circle', { ...place, r: 4, fill: '#c0504d' });
      }
    }
    getChartLayoutInterface() {
      const { left, top, width, height } = this.plot;
      return {
        getChartAreaBoundingBox: () => ({ left, top, width, height }),
        getHAxisValue: (x) => this.valueAt(x),
      };
    }
  }

  class Pie extends Chart {
    draw(table, options) {
      const { svg, width, height } = this.open(options);
      const { points } = table;
      const colours = options.colors || COLOURS;
      const top = options.title ? 26 : 6;
      const radius = Math.max(20, Math.min((height - top) / 2 - 6, width / 4));
      const [cx, cy] = [radius + 10, top + (height - top) / 2];
      const values = points.map((point) => Math.max(0, numberOf(point[1])));
      const whole = values.reduce((sum, value) => sum + value, 0) || 1;
      const at = (r, angle) => `${cx + r * Math.cos(angle)},${cy + r * Math.sin(angle)}`;
      const lines = Math.max(1, Math.floor((height - top) / 17));
      let angle = -Math.PI / 2;
      values.forEach((value, index) => {
        const share = value / whole;
        const end = angle + Math.min(share, 0.99999) * 2 * Math.PI; // an arc can't close on itself
        const turn = `${share > 0.5 ? 1 : 0}`;
        const inner = radius * (options.pieHole || 0);
        const slice = add(svg, 'path', {
          d: `M${at(inner, angle)} L${at(radius, angle)} A${radius},${radius} 0 ${turn} 1 ${at(radius, end)} ` +
            `L${at(inner, end)} A${inner},${inner} 0 ${turn} 0 ${at(inner, angle)}Z`,
          fill: colours[index % colours.length],
          stroke: '#fff',
        });
        const name = textOf(points[index][0]);
        const percent = `${(100 * share).toFixed(1)}%`;
        tip(slice, `${name}: ${textOf(points[index][1])} (${percent})`);
        if (share > 0.06) {
          const middle = (angle + end) / 2;
          const place = { x: cx + radius * 0.7 * Math.cos(middle), y: cy + radius * 0.7 * Math.sin(middle) + 4 };
          add(svg, 'text', { ...place, fill: '#fff', 'text-anchor': 'middle' }, percent);
        }
        if (index < lines) {
          const [x, y] = [cx + radius + 18, top + 6 + 17 * index];
          add(svg, 'rect', { x, y, width: 10, height: 10, fill: colours[index % colours.length] });
          tip(add(svg, 'text', { x: x + 14, y: y + 9 }, cut(name, width - x - 18)), name);
        }
        angle = end;
      });
      this.fire('ready');
    }
  }

  class TableView extends Chart {
    draw(table, options) {
      this.clearChart();
      const rows = table.rows.map((row, index) => ({ row, index }));
      const by = options.sortColumn;
      if (by !== undefined && by >= 0) {
        const sign = options.sortAscending ? 1 : -1;
        rows.sort((a, b) => sign * (numberOf(a.row[by]) - numberOf(b.row[by])));
      }
      const size = options.pageSize || rows.length || 1;
      const body = document.createElement('div');
      body.style.overflowX = 'auto';
      this.element.appendChild(body);
      const show = (page) => this.page(body, table, rows.slice(page * size, (page + 1) * size));
      if (rows.length > size) this.pages(Math.ceil(rows.length / size), show);
      show(0);
      this.fire('ready');
    }
    page(body, table, rows) {
      body.textContent = '';
      const view = document.createElement('table');
      view.style.cssText = 'border-collapse:collapse;width:100%;font:12px Roboto,Arial,sans-serif';
      const head = view.insertRow();
      for (const index of table.drawn) {
        const cell = document.createElement('th');
        cell.textContent = table.columns[index].label || '';
        cell.style.cssText = 'border:1px solid #ccc;padding:3px 6px;background:#eee;text-align:left';
        head.appendChild(cell);
      }
      for (const { row, index } of rows) {
        const line = view.insertRow();
        for (const column of table.drawn) {
          const cell = line.insertCell();
          cell.textContent = textOf(row[column]);
          const number = table.columns[column].type === 'number' ? 'text-align:right;' : '';
          const own = table.styles.get(`${index},${column}`) || '';
          cell.style.cssText = `border:1px solid #ddd;padding:2px 6px;overflow-wrap:anywhere;${number}${own}`;
        }
      }
      body.appendChild(view);
    }
    pages(count, show) {
      const bar = document.createElement('div');
      bar.style.cssText = 'margin:6px 0;font:12px Roboto,Arial,sans-serif';
      const at = document.createElement('span');
      let page = 0;
      const turn = (by) => {
        page = Math.min(count - 1, Math.max(0, page + by));
        at.textContent = ` ${page + 1} of ${count} `;
        show(page);
      };
      for (const [text, by] of [['‹', -1], ['›', 1]]) {
        const button = document.createElement('button');
        button.textContent = text;
        button.addEventListener('click', () => turn(by));
        bar.appendChild(button);
        if (by < 0) bar.appendChild(at);
      }
      at.textContent = ` 1 of ${count} `;
      this.element.appendChild(bar);
    }
  }

  // Rows: level, name, tooltip, start, end. What would be narrower than a third of a pixel is left out.
  class Timeline extends Chart {
    draw(table, options) {
      const { svg, width, height } = this.open(options);
      const rows = table.rows;
      const start = rows.reduce((least, row) => Math.min(least, numberOf(row[3])), Infinity);
      const end = rows.reduce((most, row) => Math.max(most, numberOf(row[4])), -Infinity);
      const levels = [...new Set(rows.map((row) => row[0]))].sort((a, b) => a - b);
      const thick = Math.max(12, Math.min(36, (height - 20) / Math.max(1, levels.length)));
      const scale = width / (end - start || 1);
      const place = new Map(levels.map((level, index) => [level, index * thick]));
      const colour = new Map();
      for (const row of rows) {
        const [x, long] = [(row[3] - start) * scale, (row[4] - row[3]) * scale];
        if (long < 0.34) continue;
        const name = textOf(row[1]);
        if (!colour.has(name)) colour.set(name, COLOURS[colour.size % COLOURS.length]);
        const y = place.get(row[0]);
        const bar = add(svg, 'rect', {
          x, y, width: Math.max(0.5, long - 0.3), height: thick - 2, fill: colour.get(name),
        });
        tip(bar, textOf(row[2]));
        if (long > 36) {
          const label = { x: x + 3, y: y + thick / 2 + 3, fill: '#fff' };
          add(svg, 'text', label, cut(name, long - 6)).style.pointerEvents = 'none';
        }
      }
      this.fire('ready');
    }
  }

  window.google = {
    charts: { load: async () => {}, setOnLoadCallback: (callback) => callback() },
    visualization: {
      DataTable,
      arrayToDataTable,
      events: { addListener: (chart, name, listener) => chart.listen(name, listener) },
      ColumnChart: Columns,
      ComboChart: Columns,
      SteppedAreaChart: SteppedArea,
      LineChart: Lines,
      PieChart: Pie,
      Table: TableView,
      Timeline,
    },
  };
})();
