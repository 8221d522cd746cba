// Training curves: one chart per figure, one line per run, a common crosshair.

const CURVES = data.curves;  // {key: title}
const BOX = { width: 340, height: 190, left: 32, right: 8, top: 8, bottom: 22 };
const DASHES = [null, '6 3', '2 3', '9 3 2 3', '1 4', '12 4'];

// Color and dash of a run. One folder: a color for joint, bone, skip, dashed for motion.
// Several folders: a color per folder, a dash per stream.
const groups = [...new Set(data.runs.map(run => run.group))];
const streams = [...new Set(data.runs.map(run => run.stream))];
function styleOf(run) {
  const known = ['joint', 'bone', 'skip'].indexOf(run.stream.replace('-motion', ''));
  const [hue, dash] = groups.length > 1 ? [groups.indexOf(run.group), streams.indexOf(run.stream)]
    : known >= 0 ? [known, run.stream.endsWith('-motion') ? 1 : 0] : [streams.indexOf(run.stream), 0];
  return { stroke: `var(--s${hue % 7})`, 'stroke-dasharray': DASHES[dash % DASHES.length], 'stroke-width': 1.8, fill: 'none' };
}

function drawCurves() {
  const runs = data.runs.filter(run => run.epochs.epoch.length);
  if (!runs.length) { $('training').hidden = true; return; }
  const hidden = new Set();
  const epochs = Math.max(...runs.flatMap(run => run.epochs.epoch)) + 1;
  const x = epoch => BOX.left + (BOX.width - BOX.left - BOX.right) * (epochs > 1 ? epoch / (epochs - 1) : .5);
  const keys = Object.keys(CURVES).filter(key => runs.some(run => run.epochs[key].some(v => v !== null)));
  const switches = new Set(runs.map(({ epochs: { epoch, stage } }) => epoch[stage.indexOf(2)]).filter(e => e > 0));
  const hairs = [];
  let at = epochs - 1;

  function panel(key) {
    const values = runs.flatMap(run => run.epochs[key]).filter(v => v !== null);
    const top = key === 'loss' ? Math.max(...values) * 1.05 : 100;
    const y = value => BOX.height - BOX.bottom - (BOX.height - BOX.top - BOX.bottom) * value / top;
    const hair = svg('line', { class: 'hair', y1: BOX.top, y2: BOX.height - BOX.bottom, visibility: 'hidden' });
    hairs.push(hair);
    const steps = key === 'loss' ? ticks(top) : [0, 25, 50, 75, 100];
    const every = Math.max(1, Math.ceil(epochs / 6 / 5) * 5);
    const chart = svg('svg', { viewBox: `0 0 ${BOX.width} ${BOX.height}`, tabindex: 0, role: 'img',
      'aria-label': `${CURVES[key]} by epoch; arrow keys read the values. ` + runs.map(run =>
        `${run.name} ends at ${percent(run.epochs[key].at(-1), key === 'loss' ? 3 : 1)}`).join(', ') },
    gridlines(steps, y, BOX.left, BOX.width - BOX.right),
    Array.from({ length: epochs }, (_, e) => e).filter(e => e === 0 || (e + 1) % every === 0)
      .map(e => svg('text', { x: x(e), y: BOX.height - 6, 'text-anchor': 'middle' }, e ? String(e + 1) : epochs > 1 ? '1' : 'epoch 1')),
    [...switches].map(e => [svg('line', { class: 'mark', x1: x(e - .5), x2: x(e - .5), y1: BOX.top, y2: BOX.height - BOX.bottom })]),
    runs.map((run, i) => svg('path', { ...styleOf(run), 'data-run': i, class: 'curve', 'stroke-linejoin': 'round',
      d: line(run.epochs.epoch, run.epochs[key], x, y) })),
    runs.map((run, i) => run.epochs.epoch.length === 1 && run.epochs[key][0] !== null && svg('circle', {
      'data-run': i, class: 'curve', cx: x(run.epochs.epoch[0]), cy: y(run.epochs[key][0]), r: 4, style: `fill: ${styleOf(run).stroke}` })),
    hair);
    const read = (epoch, place) => {
      at = between(epoch, 0, epochs - 1);
      hairs.forEach(h => { h.setAttribute('x1', x(at)); h.setAttribute('x2', x(at)); h.setAttribute('visibility', 'visible'); });
      const lines = runs.filter((_, i) => !hidden.has(i)).map(run => [run, run.epochs[key][run.epochs.epoch.indexOf(at)] ?? null])
        .filter(([, v]) => v !== null).sort((a, b) => b[1] - a[1]);
      showTip([el('b', {}, `${CURVES[key]}, epoch ${at + 1}`), ...lines.map(([run, v]) =>
        row([swatch(run), ' ', run.name], percent(v, key === 'loss' ? 3 : 1)))], place);
    };
    const leave = () => { hideTip(); hairs.forEach(h => h.setAttribute('visibility', 'hidden')); };
    const nearest = event => {
      const box = chart.getBoundingClientRect();
      const u = ((event.clientX - box.left) / box.width * BOX.width - BOX.left) / (BOX.width - BOX.left - BOX.right);
      return Math.round(u * (epochs - 1));
    };
    onPointer(chart, e => read(nearest(e), e), leave);
    onKeys(chart, { ArrowLeft: -1, ArrowRight: 1, Home: -epochs, End: epochs }, move => read(at + move, () => {
      const box = chart.getBoundingClientRect();
      return [box.left + x(at) / BOX.width * box.width, box.top + 20];
    }));
    return el('figure', {}, el('figcaption', {}, CURVES[key], el('span', {}, key === 'loss' ? '' : ' %')), chart);
  }

  $('curves').replaceChildren(...keys.map(panel));
  if (runs.length > 1) $('curves-legend').replaceChildren(...runs.map((run, i) => el('button', {
    type: 'button', 'aria-pressed': 'true', onclick: event => {
      if (!hidden.delete(i)) hidden.add(i);
      event.currentTarget.setAttribute('aria-pressed', String(!hidden.has(i)));
      document.querySelectorAll(`.curve[data-run="${i}"]`).forEach(c => c.setAttribute('visibility', hidden.has(i) ? 'hidden' : 'visible'));
    } }, swatch(run), run.name)));
  const hours = runs.map(run => run.epochs.seconds.reduce((a, b) => a + b, 0) / 3600);
  const total = hours.reduce((a, b) => a + b, 0);
  $('training-note').textContent = 'Accuracy after each epoch uses one clip per sample; the table above uses all test clips. '
    + (switches.size ? 'The dotted line marks the start of the second stage. ' : '')
    + (total ? `Training took ${total < 1 ? `${(total * 60).toFixed(1)} minutes` : `${total.toFixed(1)} hours`} in total.` : '');
  asTable('curves-table', [
    { head: 'Run', value: r => r.run }, { head: 'Epoch', value: r => r.epoch },
    ...keys.map(key => ({ head: CURVES[key], value: r => r[key], text: r => percent(r[key], key === 'loss' ? 3 : 1) })),
  ], runs.flatMap(run => run.epochs.epoch.map((epoch, i) =>
    ({ run: run.name, epoch: epoch + 1, ...Object.fromEntries(keys.map(key => [key, run.epochs[key][i]])) }))));
}

const swatch = run => svg('svg', { width: 24, height: 8, 'aria-hidden': 'true', style: 'display:inline-block' },
  svg('line', { x1: 0, x2: 24, y1: 4, y2: 4, ...styleOf(run), 'stroke-width': 2.5 }));

// An SVG path through the non-null values.
function line(xs, ys, x, y) {
  let pen = 'M';
  return xs.map((e, i) => {
    if (ys[i] === null) { pen = 'M'; return ''; }
    const step = `${pen}${x(e).toFixed(1)},${y(ys[i]).toFixed(1)}`;
    pen = 'L';
    return step;
  }).join('');
}

// About four round numbers from 0 to `top`.
function ticks(top) {
  const rough = top / 4, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * unit).find(s => s >= rough);
  return Array.from({ length: Math.floor(top / step) + 1 }, (_, i) => +(i * step).toPrecision(6));
}
