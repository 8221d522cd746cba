// The confusion matrix on a canvas (blue: correct, orange: wrong), and the most confused pairs.

function drawConfusion() {
  if (!entries.length) { $('confusion').hidden = true; return; }
  let order = Object.keys(orders)[0], cursor = null, area = null, pinned = null;
  const canvas = el('canvas', { tabindex: 0, role: 'img' });
  $('matrix').append(canvas);
  $('confusion-tools').append(
    selector('Order by', Object.entries(orders).filter(([key]) => key !== 'change').map(([key, { name }]) => [key, name]),
      order, value => { order = value; cursor = null; redraw(); }),
    el('span', {}, 'Fraction of the true class, 0 to 100 %: correct ', ramp('right'), ' wrong ', ramp('wrong')));

  function draw(available) {
    const sequence = orders[order].sort(), entry = shown(), counts = confusionOf(entry);
    const named = available > 560 && K <= 64, family = getComputedStyle(document.body).fontFamily;
    const pen = canvas.getContext('2d');
    const titles = data.classes.map(name => shorten(name, 27));
    pen.font = `11px ${family}`;
    const left = named ? 8 + Math.max(...titles.map(title => pen.measureText(title).width)) : 18, top = left;
    const side = Math.min(available - left, 700), scale = devicePixelRatio || 1;
    area = { left, top, cell: side / K, sequence };
    canvas.width = (left + side) * scale;
    canvas.height = (top + side) * scale;
    canvas.dataset.named = named;
    canvas.style.maxWidth = `${left + side}px`;
    canvas.setAttribute('aria-label', `Confusion matrix of ${entry.name}, ${K} by ${K} classes; arrow keys move, Enter lists the clips`);
    pen.scale(scale, scale);
    // One pixel per cell, then enlarged: fast for hundreds of classes.
    const small = el('canvas', { width: K, height: K }), image = new ImageData(K, K);
    const [paper, right, wrong] = ['shade', 'right', 'wrong'].map(name => channels(color(name)));
    sequence.forEach((k, i) => {
      const { n } = classOf(entry, k);
      sequence.forEach((j, column) => {
        const share = n ? Math.sqrt(counts[k * K + j] / n) : 0, ink = i === column ? right : wrong;
        image.data.set([0, 1, 2].map(c => paper[c] + (ink[c] - paper[c]) * share).concat(255), 4 * (i * K + column));
      });
    });
    small.getContext('2d').putImageData(image, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, left, top, side, side);
    pen.fillStyle = color('quiet');
    pen.font = `11px ${family}`;
    if (named) {
      pen.textAlign = 'right';
      pen.fillText('predicted →', left - 5, top - 18);
      pen.fillText('true ↓', left - 5, top - 5);
      pen.textBaseline = 'middle';
      pen.font = `${Math.min(11, area.cell * .92)}px ${family}`;
      sequence.forEach((k, i) => pen.fillText(titles[k], left - 5, top + (i + .5) * area.cell));
      pen.textAlign = 'left';
      sequence.forEach((k, i) => upright(pen, titles[k], left + (i + .5) * area.cell, top - 5));
    } else {
      pen.fillText('predicted →', left, 11);
      upright(pen, '← true', 11, top + 70);
    }
    if (order === 'count') boundaries(pen, sequence, side);
    if (cursor) outline(pen, side);
  }

  function upright(pen, text, x, y) {
    pen.save();
    pen.translate(x, y);
    pen.rotate(-Math.PI / 2);
    pen.fillText(text, 0, 0);
    pen.restore();
  }

  // Thin lines between many, medium and few.
  function boundaries(pen, sequence, side) {
    pen.strokeStyle = color('quiet');
    pen.lineWidth = .75;
    sequence.forEach((k, i) => {
      if (!i || shotOf(k) === shotOf(sequence[i - 1])) return;
      const at = i * area.cell;
      pen.beginPath();
      pen.moveTo(area.left, area.top + at); pen.lineTo(area.left + side, area.top + at);
      pen.moveTo(area.left + at, area.top); pen.lineTo(area.left + at, area.top + side);
      pen.stroke();
    });
  }

  function outline(pen, side) {
    const [i, j] = cursor, { left, top, cell } = area;
    pen.strokeStyle = color('ink');
    pen.lineWidth = .5;
    pen.strokeRect(left, top + i * cell, side, cell);
    pen.strokeRect(left + j * cell, top, cell, side);
    pen.lineWidth = 2;
    pen.strokeRect(left + j * cell, top + i * cell, cell, cell);
  }

  function describe([i, j]) {
    const [k, l] = [area.sequence[i], area.sequence[j]], { n } = classOf(shown(), k), count = confusionOf(shown())[k * K + l];
    return [el('b', {}, data.classes[k]), row(k === l ? 'correct' : 'confused with', k === l ? '' : data.classes[l]),
      row('Test clips', `${count} of ${n}${n ? ` (${percent(100 * count / n)} %)` : ''}`),
      data.counts && row('Training clips', k === l ? data.counts[k] : `${data.counts[k]} and ${data.counts[l]}`)].filter(Boolean);
  }

  function cellAt(event) {
    const box = canvas.getBoundingClientRect();
    const i = Math.floor((event.clientY - box.top - area.top) / area.cell);
    const j = Math.floor((event.clientX - box.left - area.left) / area.cell);
    return i >= 0 && j >= 0 && i < K && j < K ? [i, j] : null;
  }

  function move(to, at) {
    cursor = to;
    redraw();
    if (to) showTip(describe(to), at); else hideTip();
  }
  function pin() {
    if (cursor) { pinned = cursor.map(i => area.sequence[i]); list(); }
  }
  onPointer(canvas, e => move(cellAt(e), e), () => move(null));
  canvas.addEventListener('click', e => { move(cellAt(e), e); pin(); });  // a tap has left already
  canvas.addEventListener('keydown', e => {
    if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); pin(); }
  });
  onKeys(canvas, { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }, step => {
    const to = cursor ? cursor.map((c, axis) => between(c + step[axis], 0, K - 1)) : [0, 0];
    move(to, () => {
      const box = canvas.getBoundingClientRect();
      return [box.left + area.left + to[1] * area.cell, box.top + area.top + to[0] * area.cell];
    });
  });

  // The most confused pairs, and the clips of the selected pair.
  function list() {
    const counts = confusionOf(shown());
    const pairs = byLabel.flatMap(k => classOf(shown(), k).mistaken.slice(0, 3).map(([l, n]) => [k, l, n]))
      .sort((a, b) => b[2] / classOf(shown(), b[0]).n - a[2] / classOf(shown(), a[0]).n).slice(0, 12);
    const pick = pair => { pinned = pair; list(); };
    const table = el('table', {}, el('thead', {}, el('tr', {}, ['True', 'Predicted', '%'].map((h, i) =>
      el('th', { scope: 'col', class: i < 2 ? 'text' : null }, h)))),
    el('tbody', {}, pairs.map(([k, l, n]) => el('tr', {},
      el('td', { class: 'text' }, el('button', { type: 'button', class: 'plain', onclick: () => pick([k, l]) }, data.classes[k])), el('td', { class: 'text' }, data.classes[l]),
    el('td', {}, percent(100 * n / classOf(shown(), k).n, 0))))));
    const picked = pinned && names.filter((_, i) => labels[i] === pinned[0] && shown().predicted[i] === pinned[1]);
    $('pairs').replaceChildren(...[
      el('h3', {}, 'Most confused'), table,
      pinned && el('h3', { style: 'margin-top:1.2rem' }, `${data.classes[pinned[0]]} → ${data.classes[pinned[1]]}`),
      pinned && el('p', { class: 'quiet small' }, `${picked.length} clips; vice versa ${counts[pinned[1] * K + pinned[0]]}.`),
      pinned && el('div', { class: 'names', tabindex: 0 }, picked.slice(0, 200).join('  ')),
    ].filter(Boolean));
  }

  const redraw = whenSized($('matrix'), draw);
  whenChosen(() => { redraw(); list(); });
}

const ramp = ink => el('span', { class: 'ramp', style: `background: linear-gradient(90deg, var(--shade), var(--${ink}))` });
const shorten = (text, length) => text.length > length ? `${text.slice(0, length - 1)}…` : text;

// 'rgb(10, 95, 148)' as [10, 95, 148].
const channels = rgb => rgb.match(/\d+/g).map(Number);
