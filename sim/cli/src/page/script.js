const rows = [...document.querySelectorAll('main .row')];
const boxes = [...document.querySelectorAll('nav input[type=checkbox]')];
const search = document.querySelector('nav input[type=search]');
function show() {
  const kinds = new Set(boxes.filter(box => box.checked).map(box => box.dataset.kind));
  const text = search.value.toLowerCase();
  for (const row of rows) {
    row.classList.toggle('hidden', !kinds.has(row.dataset.kind) || !row.title.toLowerCase().includes(text));
  }
}
boxes.forEach(box => box.addEventListener('change', show));
search.addEventListener('input', show);
// To the next row of a kind below what is seen, from the top again behind the last one.
function next(kind) {
  const wanted = rows.filter(row => row.dataset.kind === kind && !row.classList.contains('hidden'));
  const below = wanted.find(row => row.getBoundingClientRect().top > innerHeight / 3 + 30);
  (below || wanted[0])?.scrollIntoView({ block: 'start' });
  scrollBy(0, -innerHeight / 3);
}
document.querySelectorAll('nav button').forEach(button => button.addEventListener('click', () => next(button.dataset.to)));
