// The configuration of the runs, and the commands to repeat them.

function command(about, text) {
  const pre = el('pre', { tabindex: 0 }, text);
  const copy = el('button', { type: 'button', onclick: async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = 'Copied';
    } catch {
      getSelection().selectAllChildren(pre);
      copy.textContent = 'Selected';
    }
    setTimeout(() => { copy.textContent = 'Copy'; }, 1500);
  } }, 'Copy');
  return [el('p', { class: 'quiet' }, about), el('div', { class: 'command' }, pre, copy)];
}

function save(run) {
  return el('button', { type: 'button', onclick: () => {
    const link = el('a', { href: URL.createObjectURL(new Blob([run.yaml])), download: `${run.group}-${run.stream}.yaml` });
    link.click();
    URL.revokeObjectURL(link.href);
  } }, `${run.name}.yaml`);
}

const quote = text => /^[\w./:=@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

function drawConfiguration() {
  const runs = data.runs.filter(run => Object.keys(run.config).length);
  if (!runs.length) { $('configuration').hidden = true; return; }
  const folders = [...new Map(runs.map(run => [run.group, run])).values()];
  $('commands').append(
    ...command('Train again with the same configuration:', runs.map(run =>
      `python main.py --config ${quote(`${run.path}/config.yaml`)} --work-dir ${quote(`${run.path}-again`)}`).join('\n')),
    ...command('Test the weights again:', runs.map(run =>
      `python main.py --phase test --weights ${quote(`${run.path}/best.pt`)}`).join('\n')),
    ...(entries.some(e => e.run === null) ? command('Fuse the streams:', folders.map(run =>
      `python ensemble.py --folder ${quote(run.path.split('/').slice(0, -1).join('/') || '.')}`).join('\n')) : []),
    el('p', { class: 'quiet' }, 'Without the run folders, save the resolved configuration and pass it to ', el('code', {}, '--config'), ':'),
    el('div', { class: 'tools' }, runs.map(save)));
  const rows = [...new Set(runs.flatMap(run => Object.keys(run.config)))].map(key => {
    const values = runs.map(run => key in run.config ? JSON.stringify(run.config[key]) : '–');
    return { key, values, same: new Set(values).size === 1 };
  });
  const table = (head, lines) => el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Configuration' }, el('table', {},
    head && el('thead', {}, el('tr', {}, head.map(h => el('th', { scope: 'col', class: 'text' }, h)))),
    el('tbody', {}, lines.map(([key, ...values]) => el('tr', {}, el('th', { scope: 'row' }, key), values.map(v => el('td', {}, v)))))));
  const origins = [...new Set(runs.flatMap(run => Object.keys(run.origin)))];
  const part = (title, corner, lines) => lines.length
    ? [el('h3', { style: 'margin-top:1.5rem' }, title), table([corner, ...runs.map(r => r.name)], lines)] : [];
  $('settings').append(
    ...part('Where the runs come from', '', origins.map(what => [what, ...runs.map(r => r.origin[what] ?? '–')])),
    ...part('Differences between the runs', 'Key', rows.filter(r => !r.same).map(r => [r.key, ...r.values])),
    el('details', {}, el('summary', {}, runs.length > 1 ? 'Values common to all runs' : 'All values'),
      table(null, rows.filter(r => r.same).map(r => [r.key, r.values[0]]))));
}
