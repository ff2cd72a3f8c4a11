const cards = [...document.querySelectorAll('.card')], buttons = [...document.querySelectorAll('nav button')];
const has = (card, name) => name === 'all' || card.dataset.tags.split(' ').includes(name);
function show() {
  const wanted = location.hash.slice(1), name = buttons.some(b => b.dataset.show === wanted) ? wanted : 'all';
  cards.forEach(card => { card.hidden = !has(card, name); });
  buttons.forEach(b => b.setAttribute('aria-pressed', b.dataset.show === name));
  document.getElementById('none').hidden = cards.some(card => !card.hidden);
}
buttons.forEach(b => {
  b.append(` (${cards.filter(card => has(card, b.dataset.show)).length})`);
  b.onclick = () => { location.hash = b.dataset.show; show(); };
});
addEventListener('hashchange', show);
show();
