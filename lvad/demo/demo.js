const form = document.querySelector('form'), input = document.getElementById('frames');
const note = document.getElementById('note'), box = document.querySelector('.drop');
form.addEventListener('submit', event => {
  const isExample = event.submitter && event.submitter.name === 'example';
  const size = isExample ? 0 : [...input.files].reduce((sum, file) => sum + file.size, 0) / 2 ** 20;
  if (size > Number(form.dataset.maxMb)) {
    event.preventDefault();
    note.textContent = `the upload holds ${size.toFixed(1)} MB, allowed are ${form.dataset.maxMb}; send less, or raise --max_mb`;
    return;
  }
  if (isExample) input.value = '';
  note.textContent = '';
  document.body.setAttribute('aria-busy', 'true');
  setTimeout(() => form.querySelectorAll('button').forEach(button => { button.disabled = true; }));
});
addEventListener('dragover', event => { event.preventDefault(); box.classList.add('over'); });
addEventListener('dragleave', event => { if (!event.relatedTarget) box.classList.remove('over'); });
addEventListener('drop', event => {
  event.preventDefault();
  box.classList.remove('over');
  if (event.dataTransfer.files.length) {
    input.files = event.dataTransfer.files;
    form.requestSubmit(document.querySelector('button[name=run]'));
  }
});
addEventListener('pageshow', () => {
  document.body.removeAttribute('aria-busy');
  form.querySelectorAll('button').forEach(button => { button.disabled = false; });
});
