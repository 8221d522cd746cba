// The head of the page, and the table of streams and fusions with the published figures.

// The figures that some entry has: a group without classes is left out.
const shownFigures = () => Object.entries(FIGURES).filter(([key]) => entries.some(entry => entry.figures[key] != null));

const label = ({ method, backbone }) => backbone ? `${method}, ${backbone}` : method;

function summarize() {
  const seen = (data.counts ?? []).filter(count => count > 0), imbalance = Math.max(...seen) / Math.min(...seen);
  const facts = [data.backbone, seen.length && `imbalance factor ${+imbalance.toPrecision(3)}`,
    `${data.runs.length} run${data.runs.length > 1 ? 's' : ''}`, K && `${K} classes`,
    names[0] && `${names.length.toLocaleString('en')} test clips`];
  $('subtitle').textContent = facts.filter(Boolean).join('  ·  ');
  $('sentences').replaceChildren(...data.sentences.map(sentence => el('p', {}, sentence)));
  whenChosen(() => {
    const entry = shown();
    if (!entry) return;
    $('headline').replaceChildren(...shownFigures().filter(([key]) => key !== 'top5').map(([key, name]) => {
      const other = compared()?.figures[key] ?? null, value = entry.figures[key], known = entry.published[key] ?? null;
      const comparison = compared() ? (other !== null && value !== null ? `${signed(value - other)}${key === 'top1' ? ` vs. ${compared().name}` : ''}` : '')
        : known !== null ? `published ${percent(known)}` : key === 'top1' ? (entry === entries[data.lead] && entries.length > 1 ? `${groups.length > 1 ? 'best of its folder' : 'best'}: ${entry.name}` : entry.name) : '';
      return el('div', {},
        el('dt', {}, SHOTS.includes(key) && el('span', { class: 'dot', style: `--c: var(--${key})` }), name),
        el('dd', {}, percent(value), el('small', {}, comparison)));
    }));
  });
}

function shotHead(key) {
  const [many, few] = data.shots;
  const limits = { many: `> ${many}`, medium: `${few}–${many}`, few: `< ${few}` }[key];
  const number = byLabel.filter(k => shotOf(k) === key).length, classes = number === 1 ? 'class' : 'classes';
  return data.counts ? [`${FIGURES[key]} ${limits}`, el('small', { style: 'display:block' }, `${number} ${classes}`)] : FIGURES[key];
}

function tabulate() {
  if (!entries.length) {
    $('results-table').replaceChildren(el('p', { class: 'quiet' }, 'No run has been tested yet.'));
    return;
  }
  if (data.published.length) $('published').append(publishedTable());
  else $('published').remove();
  whenChosen(() => {
    const keys = shownFigures().map(([key]) => key);
    const best = Object.fromEntries(keys.map(key => [key, Math.max(...entries.map(e => e.figures[key] ?? -1))]));
    const last = entries.some(e => data.runs[e.run]?.top1_last != null);
    const clean = data.runs.some(run => run.has_copies);
    const head = el('tr', {}, el('th', { scope: 'col' }, 'Entry'),
      keys.map(key => el('th', { scope: 'col' }, SHOTS.includes(key) ? shotHead(key) : FIGURES[key])),
      last && el('th', { scope: 'col' }, 'Top-1, last epoch'),
      clean && el('th', { scope: 'col' }, 'Top-1, no duplicates'),
      el('th', { scope: 'col', class: 'text' }, 'Few · medium · many'));
    const body = entries.map((entry, i) => el('tr', {
      class: [entry.run === null && 'fusion', i === choice.shown && 'chosen'].filter(Boolean).join(' ') },
    el('th', { scope: 'row' }, entry.name, entry.run === null && el('small', { class: 'quiet', style: 'display:block;font-weight:400' },
      `weights ${Object.values(entry.weights).join(' : ')}`)),
    keys.map(key => {
      const value = entry.figures[key], known = entry.published[key] ?? null;
      return el('td', { class: value !== null && value === best[key] ? 'best' : null }, percent(value),
        known !== null && el('small', {}, percent(known), value !== null && `  ${signed(value - known)}`));
    }),
    last && el('td', {}, percent(data.runs[entry.run]?.top1_last)),
    clean && el('td', {}, percent(data.runs[entry.run]?.top1_clean)),
    el('td', { class: 'text' }, strip(entry))));
    $('results-table').replaceChildren(el('table', {}, el('thead', {}, head), el('tbody', {}, body)));
  });
  const lists = new Set(data.runs.map(run => run.published_list).filter(Boolean));
  $('results-note').textContent = 'In percent; small print: the published figure for the same list, method, backbone and stream, and the difference from it. Shot groups by training count; mean class gives all classes the same weight. '
    + `The best epoch was selected ${selectedOn()}. `
    + (lists.size ? `Trained on the published list (${[...lists].map(d => d.slice(0, 16)).join(', ')}).`
      : 'Not trained on a published list.');
}

// What the best epochs of the runs were selected on.
function selectedOn() {
  const heldOut = data.runs.filter(run => run.held_out), others = data.runs.length - heldOut.length;
  if (!heldOut.length) return 'on the test split, as is common in the field';
  if (!others) return 'on held-out training samples';
  return `on held-out training samples (${heldOut.map(run => run.name).join(', ')}) or on the test split (the other ${others})`;
}

// A line from 0 to 100 % with a dot for each shot group.
function strip(entry) {
  const x = value => 4 + value * 1.32;
  return svg('svg', { width: 140, height: 14, role: 'img',
    'aria-label': SHOTS.map(s => `${s} ${percent(entry.figures[s])}`).join(', ') },
  svg('line', { x1: x(0), x2: x(100), y1: 7, y2: 7, class: 'axis' }),
  SHOTS.filter(s => entry.figures[s] !== null).map(s =>
    svg('circle', { cx: x(entry.figures[s]), cy: 7, r: 4, class: s })));
}

function publishedTable() {
  const rows = {};
  for (const p of data.published) (rows[[label(p), p.streams, p.source]] ??= { ...p })[p.metric] = p.value;
  const figures = Object.keys(FIGURES).filter(key => data.published.some(p => p.metric === key));
  return sortable([
    { head: 'Method, backbone', value: label },
    { head: 'Streams', value: r => r.streams, class: 'text' },
    ...figures.map(key => ({ head: FIGURES[key], value: r => r[key] ?? null, text: r => percent(r[key]) })),
    { head: 'Source', value: r => r.source, class: 'text' },
  ], Object.values(rows), 2);
}
