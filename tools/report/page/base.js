// Shared by all parts of the page: the data, the selected entries, elements, the tooltip.

const data = JSON.parse(document.getElementById('data').textContent);
const K = data.classes.length;
const SHOTS = ['many', 'medium', 'few'];
const FIGURES = data.figures;  // {key: title}

const ARRAYS = { uint16: Uint16Array, int16: Int16Array };
function unpack({ dtype, data: text }) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new ARRAYS[dtype](bytes.buffer);
}

const names = data.names.split('\n');
const labels = unpack(data.labels);
const entries = data.entries.map(e => ({ ...e, predicted: unpack(e.predicted) }));

// --- classes -------------------------------------------------------------------------------

const byLabel = Array.from({ length: K }, (_, k) => k);
const headToTail = data.head_to_tail;

const shotOf = k => data.shot[k] ?? 'ungrouped';

// The confusion matrix of an entry, K x K, rows are the true class; cached.
function confusionOf(entry) {
  if (!entry.confusion) {
    entry.confusion = new Uint32Array(K * K);
    labels.forEach((k, i) => { if (entry.predicted[i] < K) entry.confusion[k * K + entry.predicted[i]]++; });
  }
  return entry.confusion;
}

// The results of an entry on class k: {n, correct, accuracy (percent or null), mistaken: [[class, count]...]}.
function classOf(entry, k) {
  entry.classes ??= [];
  return entry.classes[k] ??= (() => {
    const row = confusionOf(entry).subarray(k * K, (k + 1) * K);
    const n = row.reduce((a, b) => a + b, 0);
    const mistaken = [...row].map((count, j) => [j, count]).filter(([j, count]) => j !== k && count)
      .sort((a, b) => b[1] - a[1]);
    return { n, correct: row[k], accuracy: n ? 100 * row[k] / n : null, mistaken };
  })();
}

// --- selected entries ----------------------------------------------------------------------

const choice = { shown: data.lead, compared: null };
const watchers = [];
function whenChosen(draw) { watchers.push(draw); draw(); }
function choose(change) { Object.assign(choice, change); watchers.forEach(draw => draw()); }
const shown = () => entries[choice.shown];
const compared = () => choice.compared === null ? null : entries[choice.compared];

// --- elements ------------------------------------------------------------------------------

const $ = id => document.getElementById(id);

function build(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children.flat(3).filter(c => c !== null && c !== undefined && c !== false));
  return node;
}
const el = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  build(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);

const percent = (value, digits = 1) => value === null || value === undefined ? '–' : value.toFixed(digits);
const signed = value => (value < 0 ? '−' : '+') + Math.abs(value).toFixed(1);
const capital = text => text[0].toUpperCase() + text.slice(1);
const between = (value, low, high) => Math.min(high, Math.max(low, value));

function selector(label, options, value, change) {
  const select = el('select', { onchange: e => change(e.target.value) },
    options.map(([key, text]) => el('option', { value: key, selected: key === value }, text)));
  return el('label', {}, label + ' ', select);
}

// Call `read` with each event of a pointer on a node, and `leave` when pointer or focus have left it.
function onPointer(node, read, leave = hideTip) {
  for (const kind of ['pointermove', 'pointerdown']) node.addEventListener(kind, read);
  for (const kind of ['pointerleave', 'focusout']) node.addEventListener(kind, leave);
}

// Call `act` with the step of the arrow key, Home or End that is pressed on a node.
function onKeys(node, steps, act) {
  node.addEventListener('keydown', e => {
    if (!(e.key in steps)) return;
    e.preventDefault();
    act(steps[e.key]);
  });
}

// Horizontal lines of a chart at `values`, named on the left.
const gridlines = (values, y, left, right, text = String) => values.map(v => [
  svg('line', { class: 'grid', x1: left, x2: right, y1: y(v), y2: y(v) }),
  svg('text', { x: left - 6, y: y(v) + 4, 'text-anchor': 'end' }, text(v))]);

// A table that is sorted by a click on a column header. columns: [{head, value(row), text(row), class}].
function sortable(columns, rows, sort = null) {
  const body = el('tbody');
  const heads = columns.map((column, i) => el('th', { scope: 'col', class: column.class },
    el('button', { type: 'button', onclick: () => order(i) }, column.head)));
  let by = sort, down = true;
  function order(i) {
    down = by === i ? !down : typeof columns[i].value(rows[0]) === 'number';
    by = i;
    fill();
  }
  function fill() {
    heads.forEach((head, i) => i === by ? head.setAttribute('aria-sort', down ? 'descending' : 'ascending')
      : head.removeAttribute('aria-sort'));
    const sorted = by === null ? rows : [...rows].sort((a, b) => {
      const [x, y] = [a, b].map(columns[by].value);
      if (x === y) return 0;
      if (x === null || y === null) return x === null ? 1 : -1;
      return (x < y ? -1 : 1) * (down ? -1 : 1);
    });
    body.replaceChildren(...sorted.map(row => el('tr', {}, columns.map((column, i) =>
      el(i ? 'td' : 'th', { scope: i ? null : 'row', class: column.class }, (column.text ?? column.value)(row))))));
  }
  fill();
  return el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Table' },
    el('table', {}, el('thead', {}, el('tr', {}, heads)), body));
}

const asTable = (id, columns, rows) => $(id).replaceChildren(el('summary', {}, 'As a table'), sortable(columns, rows));

// --- tooltip -------------------------------------------------------------------------------

const tip = $('tip');
const row = (name, value) => el('div', { class: 'row' }, el('span', {}, name), el('span', {}, value));

let anchor = null;

// Show `content` next to a point of the window: a pointer event or, for the keyboard, a function
// that returns [x, y]; then it is also announced to screen readers, and moves with the page.
function showTip(content, at) {
  anchor = typeof at === 'function' ? at : null;
  tip.replaceChildren(...content);
  tip.hidden = false;
  place(...(anchor ? anchor() : [at.clientX, at.clientY]));
  if (anchor) $('live').textContent = [...tip.childNodes].map(n => n.textContent).join('; ');
}
function place(x, y) {
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(6, x + 16 + width > innerWidth ? x - width - 12 : x + 16)}px`;
  tip.style.top = `${Math.max(6, y + 16 + height > innerHeight ? y - height - 12 : y + 16)}px`;
}
function hideTip() { tip.hidden = true; anchor = null; }
addEventListener('scroll', () => anchor ? place(...anchor()) : hideTip(), { passive: true });
addEventListener('keydown', e => { if (e.key === 'Escape') hideTip(); });

// A color of the style sheet in the current theme, as a canvas takes it: 'rgb(10, 95, 148)'.
let colors = {};
function color(name) {
  if (!(name in colors)) {
    tip.style.outlineColor = `var(--${name})`;
    colors[name] = getComputedStyle(tip).outlineColor;
  }
  return colors[name];
}

// Call `draw(width)` now and whenever the width of `node` or the theme changes. What is printed is
// drawn as for a window of usual width, and scaled by the style sheet.
const themed = [], PRINTED = 1000;
let printing = false;
function whenSized(node, draw) {
  let width = 0;
  const again = () => { if (node.clientWidth) draw(width = printing ? PRINTED : node.clientWidth); };
  new ResizeObserver(() => { if (Math.abs(node.clientWidth - width) > 1) again(); }).observe(node);
  themed.push(again);
  return again;
}
