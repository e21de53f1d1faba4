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
