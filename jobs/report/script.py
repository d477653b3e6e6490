"""What does a pointer over a chart show? The values of every curve at the nearest step; without script charts stay."""

SCRIPT = """
for (const area of document.querySelectorAll('.area')) {
  const curves = JSON.parse(area.dataset.curves), low = +area.dataset.low, high = +area.dataset.high;
  const hair = area.appendChild(document.createElement('div')); hair.className = 'hair';
  const tip = area.appendChild(document.createElement('div')); tip.className = 'tip';
  const nearest = (xs, x) => {
    let a = 0, b = xs.length - 1;
    while (b - a > 1) { const m = (a + b) >> 1; if (xs[m] < x) a = m; else b = m; }
    return Math.abs(xs[a] - x) <= Math.abs(xs[b] - x) ? a : b;
  };
  const show = event => {
    const box = area.getBoundingClientRect();
    const part = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const step = curves[0].x[nearest(curves[0].x, low + part * (high - low))];
    const at = (step - low) / (high - low);
    tip.replaceChildren(Object.assign(document.createElement('b'), {textContent: 'step ' + step.toLocaleString('en')}));
    for (const curve of curves) {
      const index = nearest(curve.x, step), row = document.createElement('div');
      const dot = Object.assign(document.createElement('i'), {className: 'line'});
      dot.style.color = `var(--${curve.c})`;
      const where = curve.x[index] === step ? '' : ` (step ${curve.x[index].toLocaleString('en')})`;
      row.append(dot, `${curve.n} ${curve.y[index]}${where}`);
      tip.append(row);
    }
    hair.style.left = at * 100 + '%';
    tip.style.left = at < .6 ? `calc(${at * 100}% + 10px)` : 'auto';
    tip.style.right = at < .6 ? 'auto' : `calc(${(1 - at) * 100}% + 10px)`;
    area.classList.add('read');
  };
  area.addEventListener('pointermove', show);
  area.addEventListener('pointerdown', show);
  area.addEventListener('pointerleave', () => area.classList.remove('read'));
}
"""
