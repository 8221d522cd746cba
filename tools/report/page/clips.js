// The hardest clips as animated skeletons, rotated by dragging or with the arrow keys.

const ABSENT = -32768, SCALE = 32000;

function drawClips() {
  if (!data.clips.length) { $('clips').hidden = true; return; }
  const lead = entries[data.lead], still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  let playing = !still, speed = 1;
  $('clips-lead').textContent = `Misclassified test clips with the lowest probability of the true class (${lead.name}), one per class. `
    + 'A clip that looks like another class can have a wrong label or a sensor error.';
  const button = el('button', { type: 'button', onclick: () => { playing = !playing; label(); } });
  const label = () => { button.textContent = playing ? 'Pause' : 'Play'; };
  label();
  $('clips-tools').append(button, selector('Speed', [['0.25', '¼'], ['0.5', '½'], ['1', '1'], ['2', '2']], '1', v => { speed = +v; }),
    el('span', {}, 'Drag a skeleton to rotate it.'));
  const players = data.clips.map(player);
  $('cards').append(...players.map(p => p.card));

  const seen = new IntersectionObserver(changes => changes.forEach(c => {
    players.find(p => p.canvas === c.target).visible = c.isIntersecting;
  }));
  players.forEach(p => seen.observe(p.canvas));
  themed.push(() => players.forEach(p => p.draw()));
  let before = 0;
  function tick(now) {
    const passed = Math.min(now - before, 100) / 1000;
    before = now;
    players.filter(p => p.visible).forEach(p => {
      if (playing) p.time += passed * speed;
      if (playing || p.stale) p.draw();
    });
    requestAnimationFrame(tick);
  }
  requestAnimationFrame(tick);
}

function player(clip) {
  const [T, M, V] = clip.points.shape, points = unpack(clip.points);
  const flat = points.every((value, i) => i % 3 !== 2 || value === 0 || value === ABSENT);
  const canvas = el('canvas', { tabindex: 0, role: 'img',
    'aria-label': `Skeleton of ${clip.name}: ${data.classes[clip.label]}; left and right arrow keys rotate it` });
  const self = { canvas, time: 0, visible: false, stale: true, turned: 0, card: card(clip, canvas), draw };

  function draw() {
    const size = canvas.clientWidth, scale = devicePixelRatio || 1;
    if (!size) return;
    if (canvas.width !== Math.round(size * scale)) canvas.width = canvas.height = Math.round(size * scale);
    const pen = canvas.getContext('2d');
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, size, size);
    const now = self.time / clip.seconds % 1, frame = Math.min(T - 1, Math.floor(now * T));
    const yaw = flat ? 0 : self.turned + .35 * Math.sin(self.time * .5);
    const at = (t, m, v) => {
      const i = 3 * ((t * M + m) * V + v);
      if (points[i] === ABSENT) return null;
      const [right, up, depth] = [0, 1, 2].map(c => points[i + c] / SCALE);
      return [size / 2 + size * .46 * (right * Math.cos(yaw) + depth * Math.sin(yaw)), size / 2 - size * .46 * up];
    };
    // Two earlier frames, faint, show the motion when the animation is paused.
    [[frame - 10, .10], [frame - 5, .18], [frame, 1]].filter(([t]) => t >= 0).forEach(([t, alpha]) => {
      for (let m = 0; m < M; m++) body(pen, v => at(t, m, v), m, alpha, size);
    });
    pen.globalAlpha = 1;
    pen.fillStyle = color('line');
    pen.fillRect(0, size - 3, size, 3);
    pen.fillStyle = color('quiet');
    pen.fillRect(0, size - 3, size * now, 3);
    self.stale = false;
  }

  function body(pen, at, m, alpha, size) {
    pen.globalAlpha = alpha;
    pen.strokeStyle = pen.fillStyle = color(m ? 's1' : 's0');
    pen.lineWidth = size / 75;
    pen.lineCap = 'round';
    pen.beginPath();
    for (const [child, parent] of data.edges) {
      const [a, b] = [at(child), at(parent)];
      if (a && b) { pen.moveTo(...a); pen.lineTo(...b); }
    }
    pen.stroke();
    if (alpha < 1) return;
    for (let v = 0; v < V; v++) {
      const place = at(v);
      if (!place) continue;
      pen.beginPath();
      pen.arc(...place, size / 95, 0, 7);
      pen.fill();
    }
  }

  let held = null;
  canvas.addEventListener('pointerdown', e => { held = e.clientX; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener('pointermove', e => {
    if (held === null) return;
    self.turned += (e.clientX - held) / 80;
    held = e.clientX;
    self.stale = true;
  });
  canvas.addEventListener('pointerup', () => { held = null; });
  canvas.addEventListener('pointercancel', () => { held = null; });
  onKeys(canvas, { ArrowLeft: -.2, ArrowRight: .2 }, turn => { self.turned += turn; self.stale = true; });
  return self;
}

function card(clip, canvas) {
  const best = clip.predictions[data.lead][0];
  const correct = clip.predictions.filter(p => p && p[0][0] === clip.label).length;
  return el('figure', { class: 'card' }, canvas, el('div', { class: 'about' },
    el('p', {}, el('span', { class: 'tag' }, 'True'), el('strong', {}, data.classes[clip.label])),
    el('p', {}, el('span', { class: 'tag' }, 'Predicted'), data.classes[best[0]]),
    el('p', {}, el('code', {}, clip.name)),
    el('table', { 'aria-label': `Prediction of each entry; ${correct} correct` }, el('tbody', {},
      clip.predictions.map((top, i) => top && el('tr', { title: top.map(([k, p]) => `${data.classes[k]} ${percent(p)} %`).join('\n') },
        el('th', { scope: 'row' }, entries[i].name),
        el('td', { class: top[0][0] === clip.label ? 'right' : null },
          `${top[0][0] === clip.label ? '✓ ' : ''}${data.classes[top[0][0]]}`),
        el('td', {}, `${percent(top[0][1], 0)} %`)))))));
}
