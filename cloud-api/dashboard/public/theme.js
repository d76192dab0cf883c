// Before first paint, so that a night screen never flashes white.
try {
  const theme = JSON.parse(localStorage.getItem('ecosight.settings') || '{}').theme;
  if (theme && theme !== 'auto') document.documentElement.dataset.theme = theme;
} catch {
  // Storage is forbidden or broken: the system's theme holds.
}
