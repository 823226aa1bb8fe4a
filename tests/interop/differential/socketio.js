export const socketio = [];
