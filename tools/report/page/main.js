// Build the page.

function fillChoices() {
  if (entries.length < 2) return;
  const options = entries.map((entry, i) => [String(i), entry.name]);
  $('choices').prepend(
    selector('Show', options, String(choice.shown), value => choose({ shown: +value })),
    selector('compared with', [['', 'nothing'], ...options], '', value => choose({ compared: value === '' ? null : +value })));
}

function theme() {
  const root = document.documentElement, system = matchMedia('(prefers-color-scheme: dark)');
  const redraw = () => { colors = {}; themed.forEach(draw => draw()); };
  const use = theme => { root.dataset.theme = theme; redraw(); };
  $('theme').addEventListener('click', () => {
    const dark = root.dataset.theme ? root.dataset.theme === 'dark' : system.matches;
    use(dark ? 'light' : 'dark');
  });
  system.addEventListener('change', redraw);
  // Paper is light, and shows what has not been scrolled to.
  let onScreen = '';
  addEventListener('beforeprint', () => { onScreen = root.dataset.theme ?? ''; printing = true; use('light'); });
  addEventListener('afterprint', () => { printing = false; use(onScreen); });
}

// Links to the sections with content; that to the visible one is marked.
function navigation() {
  const sections = [...document.querySelectorAll('main > section:not([hidden])')];
  const links = sections.map(section => el('a', { href: `#${section.id}` }, capital(section.id)));
  $('sections').append(...links);
  const seen = new IntersectionObserver(changes => changes.filter(c => c.isIntersecting).forEach(c =>
    links.forEach(a => a.hash === `#${c.target.id}` ? a.setAttribute('aria-current', 'true') : a.removeAttribute('aria-current'))),
  { rootMargin: '-20% 0px -70% 0px' });
  sections.forEach(section => seen.observe(section));
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
