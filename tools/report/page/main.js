// Build the page.

function fillChoices() {
  if (!entries.length) { document.querySelector('.choices').querySelectorAll('label').forEach(l => { l.hidden = true; }); return; }
  const options = () => entries.map((entry, i) => el('option', { value: i }, entry.name));
  $('shown').append(...options());
  $('compared').append(el('option', { value: '' }, 'nothing'), ...options());
  $('shown').value = choice.shown;
  $('shown').addEventListener('change', e => choose({ shown: +e.target.value }));
  $('compared').addEventListener('change', e => choose({ compared: e.target.value === '' ? null : +e.target.value }));
  $('shown-label').hidden = $('compared-label').hidden = entries.length < 2;
}

function theme() {
  const dark = () => document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  const redraw = () => themed.forEach(draw => draw());
  $('theme').addEventListener('click', () => {
    document.documentElement.dataset.theme = dark() ? 'light' : 'dark';
    redraw();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
  // Paper is light, and shows what has not been scrolled to.
  let onScreen = null;
  addEventListener('beforeprint', () => {
    onScreen = document.documentElement.dataset.theme ?? '';
    document.documentElement.dataset.theme = 'light';
    printing = true;
    redraw();
  });
  addEventListener('afterprint', () => {
    printing = false;
    if (onScreen) document.documentElement.dataset.theme = onScreen;
    else delete document.documentElement.dataset.theme;
    redraw();
  });
}

// Mark the visible section in the navigation; remove links to sections without content.
function navigation() {
  const links = [...$('sections').querySelectorAll('a')];
  links.filter(a => $(a.hash.slice(1)).hidden).forEach(a => a.remove());
  const seen = new IntersectionObserver(changes => changes.filter(c => c.isIntersecting).forEach(c =>
    links.forEach(a => a.hash === `#${c.target.id}` ? a.setAttribute('aria-current', 'true') : a.removeAttribute('aria-current'))),
  { rootMargin: '-20% 0px -70% 0px' });
  document.querySelectorAll('main > section').forEach(section => seen.observe(section));
}

fillChoices();
summarize();
tabulate();
$('notes').append(...data.notes.map(note => el('li', {}, note)));
drawCurves();
drawClasses();
drawConfusion();
drawCalibration();
drawClips();
drawConfiguration();
theme();
navigation();
document.documentElement.dataset.ready = Math.round(performance.now());
