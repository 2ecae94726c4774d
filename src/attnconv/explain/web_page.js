// A click, or an arrow key, on the picture of `attnconv explain --web` moves the query.
const move = (row, column) => {
  const {rows, columns} = props.value, inside = (at, n) => Math.min(Math.max(Math.floor(at), 0), n - 1);
  props.value = {...props.value, row: inside(row, rows), column: inside(column, columns)};
};
element.addEventListener('click', (event) => {
  const frame = event.target.closest('.frame');
  if (!frame) return;
  const box = frame.getBoundingClientRect(), {rows, columns} = props.value;
  move((event.clientY - box.top) / box.height * rows, (event.clientX - box.left) / box.width * columns);
});
element.addEventListener('keydown', (event) => {
  const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
  if (!step || !event.target.closest('.frame')) return;
  event.preventDefault();
  const {rows, columns, row, column} = props.value, far = Math.max(1, Math.min(rows, columns) / 16);
  move(row + step[0] * far, column + step[1] * far);
});
