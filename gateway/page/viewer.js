// One picture at its full size, and the way to its neighbours.

const dialog = document.getElementById("viewer");
const image = document.getElementById("viewer-image");
const caption = document.getElementById("viewer-caption");
const link = document.getElementById("viewer-open");
const previous = document.getElementById("viewer-previous");
const next = document.getElementById("viewer-next");

let shown = { pictures: [], index: 0 };

/** `pictures`: [{ url, text, caption }] */
export function view(pictures, index) {
  shown = { pictures, index };
  render();
  dialog.showModal();
}

function render() {
  const { pictures, index } = shown;
  const picture = pictures[index];
  image.src = picture.url;
  image.alt = picture.text;
  caption.textContent = picture.caption;
  link.href = picture.url;
  previous.hidden = next.hidden = pictures.length < 2;
  previous.disabled = index === 0;
  next.disabled = index === pictures.length - 1;
}

function move(by) {
  const index = shown.index + by;
  if (!shown.pictures[index]) return;
  shown.index = index;
  render();
}

previous.addEventListener("click", () => move(-1));
next.addEventListener("click", () => move(1));
document.getElementById("viewer-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("close", () => image.removeAttribute("src"));
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") move(-1);
  if (event.key === "ArrowRight") move(1);
});
