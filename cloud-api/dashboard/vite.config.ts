import { readFileSync } from 'node:fs';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig, type Plugin } from 'vite';

const server = process.env.ECOSIGHT_URL ?? 'http://127.0.0.1:8000';

/** What the build carries of other people's work, with the terms that must travel with it. */
const CARRIED = [
  ['Svelte', 'node_modules/svelte/LICENSE.md'],
  ['Inter (font)', 'node_modules/@fontsource-variable/inter/LICENSE'],
] as const;

function licences(): Plugin {
  return {
    name: 'licences',
    generateBundle() {
      const texts = CARRIED.map(([name, path]) => `${name}\n\n${readFileSync(new URL(path, import.meta.url), 'utf8').trim()}\n`);
      this.emitFile({ type: 'asset', fileName: 'licences.txt', source: texts.join('\n\n') });
    },
  };
}

export default defineConfig({
  plugins: [
    licences(),
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
