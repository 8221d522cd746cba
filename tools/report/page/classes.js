// Accuracy of each class above the axis, its training count below.

// The first one is the usual order.
const orders = {
  ...data.counts && { count: { name: 'training count', sort: () => headToTail } },
  label: { name: 'label', sort: () => byLabel },
  accuracy: { name: 'accuracy', sort: () => [...headToTail].sort((a, b) =>
    (classOf(shown(), b).accuracy ?? -1) - (classOf(shown(), a).accuracy ?? -1)) },
  change: { name: 'change', sort: () => [...headToTail].sort((a, b) => change(b) - change(a)) },
};
// null where one of the two has no test clips
const change = k => {
  const [own, other] = [shown(), compared()].map(entry => classOf(entry, k).accuracy);
  return own === null || other === null ? null : own - other;
};
const changed = k => change(k) === null ? '–' : signed(change(k));

function drawClasses() {
  if (!entries.length) { $('classes').hidden = true; return; }
  let order = Object.keys(orders)[0], cursor = 0;
  const LONGEST = 30;  // letters of a name
  const BAR = { top: 26, height: 210, gap: 10, counts: 64, left: 34 };
  const chooser = () => selector('Order by', Object.entries(orders)
    .filter(([key]) => key !== 'change' || compared())
    .map(([key, { name }]) => [key, name]), order, value => { order = value; redraw(); });

  function describe(k) {
    const { n, correct, accuracy, mistaken } = classOf(shown(), k);
    const other = compared() && classOf(compared(), k).accuracy;
    return [el('b', {}, data.classes[k]),
      row('Accuracy', n ? `${percent(accuracy)} % (${correct} of ${n})` : 'no test clips'),
      compared() && row(compared().name, `${percent(other)} % (${changed(k)})`),
      data.counts && row('Training clips', `${data.counts[k]} · ${shotOf(k)}-shot`),
      ...mistaken.slice(0, 3).map(([j, count], i) => row(i ? '' : 'Confused with', `${data.classes[j]} ${(100 * count / n).toFixed(0)} %`)),
    ].filter(Boolean);
  }

  function draw(available) {
    const sequence = orders[order].sort();
    const step = Math.max(K <= 64 ? 13 : 5, (available - BAR.left - 4) / K), wide = BAR.left + step * K + 4;
    const thick = Math.max(Math.min(step - Math.max(1, Math.min(step * .22, 6)), 56), 2), inset = (step - thick) / 2;
    const base = BAR.top + BAR.height, low = base + BAR.gap;
    const x = i => BAR.left + i * step + inset, y = value => base - BAR.height * value / 100;
    // Names stand below their bars, upright where they are too narrow; counts end the silhouettes.
    const named = step >= 56 ? 'across' : step >= 12.5 ? 'upright' : '';
    const counted = data.counts && step >= 5 + 6.2 * String(Math.max(...data.counts)).length;
    const foot = low + (data.counts ? BAR.counts + (counted ? 14 : 0) : 0);
    const letters = Math.max(...data.classes.map(name => Math.min(name.length, LONGEST)));
    const label = named === 'across' ? 40 : named ? 14 + 6.1 * letters : 8;
    const most = data.counts ? Math.max(...data.counts) : 1;
    const depth = k => data.counts ? BAR.counts * Math.log1p(data.counts[k]) / Math.log1p(most) : 0;
    const targets = [];
    const focus = i => {
      cursor = between(i, 0, K - 1);
      targets.forEach((t, j) => t.setAttribute('tabindex', j === cursor ? 0 : -1));
      targets[cursor].focus();
    };
    const chart = svg('svg', { width: wide, height: foot + label, viewBox: `0 0 ${wide} ${foot + label}`, role: 'group',
      'aria-label': `Accuracy of ${K} classes by ${orders[order].name}; arrow keys move between classes` },
    gridlines([0, 25, 50, 75, 100], y, BAR.left, wide),
    sequence.map((k, i) => {
      const { accuracy } = classOf(shown(), k), other = compared() && classOf(compared(), k).accuracy;
      return [
        svg('rect', { class: `bar-of ${shotOf(k)}`, x: x(i), width: thick, y: y(accuracy ?? 0), height: BAR.height * (accuracy ?? 0) / 100,
          'fill-opacity': compared() ? .55 : 1 }),
        data.counts && svg('rect', { class: `silhouette ${shotOf(k)}`, x: x(i), width: thick, y: low, height: depth(k) }),
        other !== null && svg('line', { class: 'versus', x1: x(i) - 1, x2: x(i) + thick + 1, y1: y(other), y2: y(other) })];
    }),
    counted && sequence.map((k, i) => svg('text', { class: 'count', x: x(i) + thick / 2, y: low + depth(k) + 11, 'text-anchor': 'middle' }, String(data.counts[k]))),
    named === 'upright' && sequence.map((k, i) => svg('text', { class: 'name', x: 0, y: 0, 'text-anchor': 'end',
      transform: `translate(${x(i) + thick / 2 + 4} ${foot + 8}) rotate(-90)` }, shorten(data.classes[k], LONGEST))),
    named === 'across' && sequence.map((k, i) => wrap(data.classes[k], Math.floor(step / 6.5)).map((part, l) =>
      svg('text', { class: 'name', x: x(i) + thick / 2, y: foot + 16 + 13 * l, 'text-anchor': 'middle' }, part))),
    order === 'count' && brackets(sequence, x, y, thick),
    data.counts && svg('text', { x: BAR.left - 6, y: low + 10, 'text-anchor': 'end' }, 'n'),
    sequence.map((k, i) => targets[i] = svg('rect', { class: 'target', 'data-class': k, x: x(i) - inset, y: BAR.top, width: step, height: foot - BAR.top, tabindex: i === cursor ? 0 : -1, role: 'img',
      'aria-label': `${data.classes[k]}: ${percent(classOf(shown(), k).accuracy)} percent` })));
    const at = event => targets.indexOf(event.target);
    onPointer(chart, e => { if (at(e) >= 0) showTip(describe(sequence[at(e)]), e); });
    chart.addEventListener('focusin', e => {
      const i = at(e);
      if (i < 0 || !e.target.matches(':focus-visible')) return;
      showTip(describe(sequence[i]), () => {
        const box = e.target.getBoundingClientRect();
        return [box.right, box.top + 30];
      });
    });
    onKeys(chart, { ArrowLeft: -1, ArrowRight: 1, Home: -K, End: K }, move => focus(cursor + move));
    $('bars').replaceChildren(chart);
  }

  // Name and mean of each shot group, above its bars.
  function brackets(sequence, x, y, thick) {
    return SHOTS.map(shot => {
      const places = sequence.map((k, i) => [k, i]).filter(([k]) => shotOf(k) === shot).map(([, i]) => i);
      const mean = shown().figures[shot];
      if (!places.length || mean === null) return null;
      const left = x(places[0]), right = x(places.at(-1)) + thick;
      const title = [`${capital(shot)}-shot ${percent(mean)} %`, `${capital(shot)} ${percent(mean)}`, capital(shot)]
        .find(text => 7.2 * text.length <= right - left) ?? '';
      return [svg('line', { class: 'average', x1: left, x2: right, y1: y(mean), y2: y(mean) }),
        svg('text', { class: 'strong', x: left, y: 12 }, title)];
    });
  }

  const redraw = whenSized($('bars'), draw);
  whenChosen(() => {
    if (order === 'change' && !compared()) order = Object.keys(orders)[0];
    $('classes-tools').replaceChildren(chooser());
    const tested = byLabel.filter(k => classOf(shown(), k).n);
    const weakest = [...tested].sort((a, b) => classOf(shown(), a).accuracy - classOf(shown(), b).accuracy).slice(0, 3);
    $('classes-lead').textContent = (data.counts
      ? `Above the axis: accuracy of each class (${shown().name}). Below: number of training clips (logarithmic). `
      : `Accuracy of each class (${shown().name}). `)
      + (compared() ? `The dash on each bar: ${compared().name}. ` : '')
      + `Weakest: ${weakest.map(k => `${data.classes[k]} (${percent(classOf(shown(), k).accuracy, 0)} %)`).join(', ')}.`;
    redraw();
    asTable('classes-table', [
      { head: 'Class', value: k => data.classes[k] },
      { head: 'Label', value: k => k },
      ...(data.counts ? [{ head: 'Training clips', value: k => data.counts[k] }, { head: 'Shot', value: k => shotOf(k), class: 'text' }] : []),
      { head: 'Test clips', value: k => classOf(shown(), k).n },
      { head: 'Accuracy', value: k => classOf(shown(), k).accuracy, text: k => percent(classOf(shown(), k).accuracy) },
      ...(compared() ? [{ head: 'Change', value: change, text: changed }] : []),
      { head: 'Most often confused with', class: 'text', value: k => classOf(shown(), k).mistaken[0]?.[1] ?? 0,
        text: k => classOf(shown(), k).mistaken.slice(0, 3).map(([j, n]) => `${data.classes[j]} (${n})`).join(', ') },
    ], headToTail);
  });
}

// Split a text into at most two lines of at most this number of letters.
function wrap(text, letters) {
  const at = text.length > letters ? text.lastIndexOf(' ', letters) : -1;
  const parts = at > 0 ? [text.slice(0, at), text.slice(at + 1)] : [text];
  return parts.map(part => shorten(part, letters));
}
