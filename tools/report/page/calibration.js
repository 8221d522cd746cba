// How often a prediction is right, by its probability: of all test clips, and of each shot group.

function drawCalibration() {
  if (!entries.length) { $('calibration').hidden = true; return; }
  const SIDE = 240, EDGE = { left: 30, bottom: 26, top: 6, right: 8 };
  const GROUPS = { all: 'All', many: 'Many-shot', medium: 'Medium-shot', few: 'Few-shot' };
  const x = p => EDGE.left + p * (SIDE - EDGE.left - EDGE.right), y = p => SIDE - EDGE.bottom - p * (SIDE - EDGE.bottom - EDGE.top);
  const whole = value => percent(100 * value, 0);

  function panel(group, bins) {
    const most = Math.max(...bins.map(([n]) => n)), clips = bins.reduce((sum, [n]) => sum + n, 0);
    const ends = [0, .25, .5, .75, 1];
    const chart = svg('svg', { viewBox: `0 0 ${SIDE} ${SIDE}`, role: 'img', 'aria-label': `${GROUPS[group]}: `
        + bins.map(([n, p, a]) => `probability ${whole(p)} percent, right ${whole(a)} percent of ${n}`).join('; ') },
    gridlines(ends, y, x(0), x(1), whole),
    ends.map(v => svg('text', { x: x(v), y: SIDE - 10, 'text-anchor': 'middle' }, whole(v))),
    svg('line', { class: 'average', x1: x(0), x2: x(1), y1: y(0), y2: y(1) }),
    bins.map(([n, p, a]) => {
      const show = at => showTip([el('b', {}, `${n} of ${clips} clips`), row('Probability', `${whole(p)} %`), row('Right', `${whole(a)} %`)], at);
      return svg('circle', { class: group === 'all' ? 'ungrouped' : group, cx: x(p), cy: y(a), r: 2.5 + 7 * Math.sqrt(n / most), 'fill-opacity': .8,
        onpointermove: show, onpointerleave: hideTip });
    }));
    return el('figure', {}, el('figcaption', {}, GROUPS[group], el('span', {}, ` ${clips} clips`)), chart);
  }

  whenChosen(() => {
    const { ece, nll, bins } = shown().calibration;
    $('calibration-lead').textContent = `Right predictions in percent by their probability in percent (${shown().name}); a larger point has more `
      + `clips. On the dashed line probabilities are right as they are; below it they are too high. Expected calibration error `
      + `${percent(ece)} %, negative log-likelihood ${percent(nll, 3)}.`;
    const groups = Object.keys(GROUPS).filter(group => bins[group]?.length);
    $('reliability').replaceChildren(...groups.map(group => panel(group, bins[group])));
    asTable('calibration-table', [
      { head: 'Clips', value: r => r.group, class: 'text' }, { head: 'Number', value: r => r.n },
      { head: 'Probability', value: r => r.p, text: r => percent(100 * r.p) }, { head: 'Right', value: r => r.a, text: r => percent(100 * r.a) },
    ], groups.flatMap(group => bins[group].map(([n, p, a]) => ({ group: GROUPS[group], n, p, a }))));
  });
}
