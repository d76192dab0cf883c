import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

const server = process.env.ECOSIGHT_URL ?? 'http://127.0.0.1:8000';

export default defineConfig({
  plugins: [
    svelte({
      configFile: false,
      compilerOptions: {
        // The committed build must not depend on where it was made.
        cssHash: ({ hash, css }) => `s-${hash(css)}`,
      },
    }),
  ],
  server: { proxy: { '/api': server } },
  build: {
    target: 'es2022',
    // The page's CSP allows no data: URLs and no inline script.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
    reportCompressedSize: true,
  },
});
