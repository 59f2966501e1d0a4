// Before the first picture: the theme that was chosen here. A classic script, so that nothing flashes.
{
  const chosen = localStorage.getItem("covey-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
}
