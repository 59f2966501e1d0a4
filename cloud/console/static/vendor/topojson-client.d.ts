// Defines the global `topojson`.
export {};
